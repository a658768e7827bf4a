"""How a process finds the others: options, the environment, and what is refused."""

import math

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed import DistributedOptions, find_process


def test_one_process_needs_no_spec(monkeypatch):
    monkeypatch.setattr("ddpm_jax.runtime.distributed.cluster._on_tpu_vm", lambda: False)
    assert find_process(DistributedOptions()) is None
    assert find_process(DistributedOptions("host:1", 1, 0)) is None
    # The shell of an sbatch script, then a job of one task.
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert find_process(DistributedOptions()) is None
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node1")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert find_process(DistributedOptions()) is None


def test_a_task_of_slurm_finds_the_others(monkeypatch):
    variables = {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "node[07-09],other1",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    spec = find_process(DistributedOptions(timeout=7))
    assert spec is not None
    assert spec[1:] == (4, 2, 7, True)
    assert spec.coordinator.startswith("node07:")


WRONG = {
    "an incomplete spec": (DistributedOptions(coordinator="host:1"), "give all three"),
    "a number too high": (
        DistributedOptions("host:1", 2, 2),
        "from 0 to num_processes - 1",
    ),
    "no port": (DistributedOptions("host", 2, 0), "HOST:PORT"),
    "no time": (DistributedOptions("host:1", 2, 0, timeout=0), "above 0"),
    "for ever": (DistributedOptions("host:1", 2, 0, timeout=math.inf), "at most 1,000,000"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_options_that_are_wrong_are_refused(wrong):
    options, why = WRONG[wrong]
    with pytest.raises(UserError, match=why):
        find_process(options)


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(
        UserError,
        match=r"JAX can't find the others \(some of the scheduler's variables are missing",
    ):
        find_process(DistributedOptions())
