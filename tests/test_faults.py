"""What breaks runs, done to a real one: kills, signals, damaged files, a full disk.

Each life of a run is a process of its own, of the command that people type. The short form is for
every day; `pytest tests/test_faults.py --long` takes minutes, and 25 kills instead of 1.
"""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.snapshots import snapshots_of
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.logging.run_logger import read_rows
from ddpm_jax.training.step import state_layout
from tests.tiny import assert_same

CONFIG = """
from ddpm_jax.config import *

def get_config():
    return Config(
        data=PointsData(size=200),
        model=MlpConfig(width=128, layers=2),
        diffusion=DiffusionConfig(schedule="cosine", timesteps=5),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(
            averages={{"ema": "ema", "short": "power --sigma_rel 0.1"}}, snapshot_every=20,
            steps={steps}, batch_size=8, log_every=25, save_every=25, keep=2, preview_every=None,
            timestep_sampler="importance --history 2",
        ),
        sample=SampleConfig(clipping="none", num=8, batch_size=8),
    )
"""
# One array of this network's state takes twice as much, every other file of a run less.
FULL = 32 * 1024


class Life:
    """One process that trains; what it says is read when it has ended."""

    def __init__(self, run: Path):
        self.run = run
        self.log = run.with_suffix(".log")
        env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1")
        # Its programs are small, and start after start they are the same.
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        words = ["train", run.parent / "config.py", "--workdir", run]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ddpm_jax.cli", *map(str, words)],
                env=env,
                stdout=log,
                stderr=log,
            )

    def said(self) -> str:
        return self.log.read_text()

    def wait(self, condition=None) -> int:
        """Waits until something holds, or for the end, whose exit code it returns."""
        deadline = time.monotonic() + 120
        while self.process.poll() is None and not (condition and condition()):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.001)
        return self.process.returncode

    def saves(self) -> list[int]:
        return Checkpoints(self.run).steps()

    def saving(self) -> bool:
        return any((self.run / "checkpoints").glob("*.tmp"))


def state_of(run, step=None):
    checkpoints = Checkpoints(run)
    step = checkpoints.newest_good(step)
    assert step is not None
    layout = state_layout(build(checkpoints.config(step)), make_mesh(1, jax.devices()[:1]))
    return checkpoints.restore(step, layout)


def snapshots_in(run):
    """Every array of every snapshot."""
    snapshots = snapshots_of(run)
    layout = {"ema.short": state_of(run).ema["short"]}
    return {step: snapshots.restore(step, layout) for step in snapshots.steps()}


@pytest.fixture(scope="module")
def long(request):
    return request.config.getoption("--long")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, long):
    folder = tmp_path_factory.mktemp("faults")
    (folder / "config.py").write_text(CONFIG.format(steps=1500 if long else 250))
    return folder


@pytest.fixture(scope="module")
def unbroken(folder):
    """A run that nothing happened to."""
    life = Life(folder / "unbroken")
    assert life.wait() == 0, life.said()
    return life.run


def rows(run):
    return [(row["step"], row["loss"]) for row in read_rows(run / "metrics.jsonl")]


def some_moment(life, chance):
    """Waits for a moment by chance: in the middle of a save, between two, or from the start on."""
    kind = chance.choice(["start", "save", "save", "between"])
    before = len(life.saves()) and life.saves()[-1]
    if kind == "start":
        wait = time.monotonic() + chance.uniform(0, 4)
        life.wait(lambda: time.monotonic() > wait)
        return
    life.wait(lambda: (life.saves() or [0])[-1] > before)
    if kind == "save":
        life.wait(life.saving)
    time.sleep(chance.uniform(0, 0.05))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_at_random_moments_it_ends_bit_for_bit_the_same(number, unbroken, folder, long):
    few, many = {signal.SIGKILL: (1, 25), signal.SIGTERM: (1, 10)}[number]
    chance = random.Random(int(number))
    run = folder / number.name
    for _ in range(many if long else few):
        life = Life(run)
        some_moment(life, chance)
        life.process.send_signal(number)
        code = life.wait()
        said = life.said()
        assert "Traceback" not in said
        if number == signal.SIGTERM and "compiled in" in said:
            assert code == 0, said
            assert "run the same command again" in said or "done;" in said
    life = Life(run)
    assert life.wait() == 0, life.said()
    assert Checkpoints(run).steps()[-1] == Checkpoints(unbroken).steps()[-1]
    assert_same(state_of(run), state_of(unbroken))
    assert_same(snapshots_in(run), snapshots_in(unbroken))
    assert snapshots_in(run).keys() == snapshots_in(unbroken).keys()
    assert not list(run.glob("*/*.tmp*"))
    if number == signal.SIGKILL:  # A stop that is heard writes the row that it cuts short.
        assert rows(run) == rows(unbroken)


def flipped(data, chance):
    at = chance.randrange(8 * len(data))
    changed = bytearray(data)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


DAMAGES = {
    "flipped": flipped,
    "cut short": lambda data, chance: data[: chance.randrange(len(data))],
    "emptied": lambda data, chance: b"",
    "deleted": lambda data, chance: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_to_every_file_is_seen_or_harmless(damage, unbroken, tmp_path, long):
    run = tmp_path / "run"
    shutil.copytree(unbroken / "checkpoints", run / "checkpoints")
    older, newest = Checkpoints(run).steps()
    good = {step: state_of(run, step) for step in (older, newest)}
    chance = random.Random(damage)
    for path in sorted(item for item in run.rglob(f"{newest}/**/*") if item.is_file()):
        data = path.read_bytes()
        for _ in range(20 if long and damage in ("flipped", "cut short") and data else 1):
            worse = DAMAGES[damage](data, chance) if data else None
            path.unlink() if worse is None else path.write_bytes(worse)
            lines = []
            found = Checkpoints(run, report=lines.append).newest_good()
            assert found in good, path
            assert (found == newest) == (not lines), path
            if found == newest:
                assert_same(state_of(run, newest), good[newest])
            path.write_bytes(data)
    assert_same(state_of(run, older), good[older])


def test_a_damaged_newest_checkpoint_costs_only_its_own_steps(unbroken, folder):
    run = folder / "damaged"
    shutil.copytree(unbroken, run)
    older, newest = Checkpoints(run).steps()
    path = max((run / f"checkpoints/{newest}").rglob("*"), key=lambda item: item.stat().st_size)
    path.write_bytes(flipped(path.read_bytes(), random.Random(0)))
    life = Life(run)
    assert life.wait() == 0, life.said()
    assert f"checkpoints/{newest} is damaged: " in life.said()
    assert f"going on from step {older:,}" in life.said()
    assert_same(state_of(run), state_of(unbroken))


def fill_disk(life, full):
    """Lets the process write no file beyond some KiB, as a quota would; or lets it again."""
    _, most = resource.prlimit(life.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(life.process.pid, resource.RLIMIT_FSIZE, (FULL if full else most, most))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux alone has prlimit")
def test_a_disk_that_is_full_for_a_while_costs_no_step(unbroken, folder):
    life = Life(folder / "full")
    life.wait(life.saves)
    fill_disk(life, True)
    life.wait(lambda: "could not be written" in life.said())
    older = life.saves()
    assert older
    state_of(life.run, older[-1])
    fill_disk(life, False)
    assert life.wait() == 0, life.said()
    assert "older ones are as they were" in life.said()
    assert "Traceback" not in life.said()
    assert_same(state_of(life.run), state_of(unbroken))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux alone has prlimit")
@pytest.mark.parametrize("stopped", [False, True], ids=["at the end", "by SIGTERM"])
def test_a_disk_that_stays_full_ends_in_one_line_and_code_2(stopped, unbroken, folder):
    life = Life(folder / f"full-{stopped}")
    life.wait(life.saves)
    fill_disk(life, True)
    if stopped:
        life.wait(lambda: "could not be written" in life.said())
        life.process.send_signal(signal.SIGTERM)
    assert life.wait() == 2, life.said()
    last = life.said().splitlines()[-1]
    assert last.startswith("ddpm: stopped at step")
    assert "with its state unsaved" in last
    assert "Traceback" not in life.said()
    if not stopped:
        again = Life(life.run)
        assert again.wait() == 0, again.said()
        assert "going on from step" in again.said()
        assert_same(state_of(life.run), state_of(unbroken))


def test_the_same_losses_are_not_only_the_same_but_fall(unbroken):
    losses = np.array([loss for _, loss in rows(unbroken)])
    assert losses[-4:].mean() < 0.8 * losses[:2].mean()
