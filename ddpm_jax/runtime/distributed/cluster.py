"""Where this process stands among those of a run: named on the command line, or detected."""

import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed.connection import split


@dataclass(frozen=True)
class Options:
    """Where this process stands among those of a run; found by itself on TPU pods and in Slurm."""

    coordinator: str | None = None
    """HOST:PORT at which process 0 can be reached."""
    num_processes: int | None = None
    process_id: int | None = None
    """From 0."""
    timeout: float = 300
    """Seconds until all processes must be there."""


class Place(NamedTuple):
    """One process's place among several."""

    coordinator: str
    num_processes: int
    process_id: int
    timeout: float
    detected: bool
    """Whether the environment said so; JAX then asks it too, for the process's devices."""


def find(options: Options) -> Place | None:
    """Returns the place that was named, or that the environment tells; None for a lone process.

    Raises UserError for names that make no place.
    """
    named = (options.coordinator, options.num_processes, options.process_id)
    if options.timeout <= 0:
        raise UserError(f"--distributed.timeout is {options.timeout}; it must be above 0")
    if named == (None, None, None):
        return _detect(options.timeout)
    coordinator, count, process = named
    if coordinator is None or count is None or process is None:
        raise UserError(
            "--distributed.coordinator, .num_processes and .process_id go together; give all three"
        )
    if not 0 <= process < count:
        raise UserError(
            f"--distributed.process_id is {process}; it must be from 0 to num_processes - 1, "
            f"which is {count - 1}"
        )
    split(coordinator)
    return None if count == 1 else Place(coordinator, count, process, options.timeout, False)


def _detect(timeout: float) -> Place | None:
    """Asks JAX's detection, but only where the environment clearly holds several processes."""
    if not any(several() for several in _SEVERAL.values()):
        return None
    from jax._src import clusters

    try:
        cluster = next(
            each
            for each in clusters.ClusterEnv._cluster_types
            if not each.opt_in_only_method and each.is_env_present()
        )
        count = cluster.get_process_count()
        if count == 1:
            return None
        port = os.environ.get("JAX_COORDINATOR_PORT")
        address = os.environ.get("JAX_COORDINATOR_ADDRESS") or cluster.get_coordinator_address(
            timeout_secs=int(timeout), override_coordinator_port=port
        )
        return Place(address, count, cluster.get_process_id(), timeout, True)
    except Exception as error:  # Whatever a metadata server or a cluster's API may answer.
        raise UserError(
            f"this looks like one of several processes, but the others can't be found "
            f"({' '.join(str(error).split()) or type(error).__name__}); name them with "
            "--distributed.coordinator, .num_processes and .process_id"
        ) from None


def _more_than_one(name: str) -> bool:
    value = os.environ.get(name, "")
    return value.isdecimal() and int(value) > 1


def _on_tpu_vm() -> bool:
    # A sandbox without Google's metadata says so by this variable, and would wait for it for long.
    if os.environ.get("TPU_SKIP_MDS_QUERY") or not any(
        Path("/dev").glob(pattern) for pattern in ("accel[0-9]*", "vfio/[0-9]*")
    ):
        return False
    from jax._src import cloud_tpu_init

    return cloud_tpu_init.running_in_cloud_tpu_vm


_SEVERAL: dict[str, Callable[[], bool]] = {
    "Slurm": lambda: _more_than_one("SLURM_NTASKS") and "SLURM_STEP_NODELIST" in os.environ,
    "Open MPI": lambda: _more_than_one("OMPI_COMM_WORLD_SIZE"),
    "a TPU slice of Kubernetes": lambda: "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""),
    "several TPU slices": lambda: _more_than_one("MEGASCALE_NUM_SLICES"),
    "an indexed job of Kubernetes": lambda: (
        "KUBERNETES_SERVICE_HOST" in os.environ
        and "JOB_COMPLETION_INDEX" in os.environ
        and any(item.name == "kubernetes" for item in importlib.metadata.distributions())
    ),
    "a Cloud TPU VM": _on_tpu_vm,
}
"""What the environments that hold several processes have set."""
