"""How a process finds the other processes of its run: from the command line or the environment."""

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed.connection import split

# Longer ones overflow the system's clocks.
_LONGEST = 1_000_000


@dataclass(frozen=True)
class DistributedOptions:
    """The address and the number of this process; detected on TPU pods and in Slurm."""

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    num_processes: int | None = None
    process_id: int | None = None
    """From 0 to num_processes - 1."""
    timeout: float = 300
    """Seconds within which all processes must join."""


class ProcessSpec(NamedTuple):
    """How one process joins the others."""

    coordinator: str
    num_processes: int
    process_id: int
    timeout: float
    detected: bool
    """Whether the environment gave it; JAX then reads the local devices from there too."""


def find_process(options: DistributedOptions) -> ProcessSpec | None:
    """Returns the spec of the options, or of the environment; None if there is one process only.

    Raises UserError for options that contradict each other, and if the detection fails.
    """
    named = (options.coordinator, options.num_processes, options.process_id)
    if not 0 < options.timeout <= _LONGEST:
        raise UserError(
            f"distributed.timeout is {options.timeout}; it must be above 0 and at most "
            f"{_LONGEST:,} seconds"
        )
    if named == (None, None, None):
        return _detect(options.timeout)
    coordinator, count, process = named
    if coordinator is None or count is None or process is None:
        raise UserError(
            "distributed.coordinator, .num_processes and .process_id go together; give all three"
        )
    if not 0 <= process < count:
        raise UserError(
            f"distributed.process_id is {process}; it must be from 0 to num_processes - 1, "
            f"which is {count - 1}"
        )
    split(coordinator)
    return None if count == 1 else ProcessSpec(coordinator, count, process, options.timeout, False)


def _detect(timeout: float) -> ProcessSpec | None:
    """Asks JAX's detection, but only if the environment clearly holds several processes."""
    if not any(several() for several in _SEVERAL.values()):
        return None
    try:
        # JAX has no public name for its detection; the error below covers a version that moves it.
        from jax._src import clusters

        known = clusters.ClusterEnv._cluster_types
        found = [each for each in known if not each.opt_in_only_method and each.is_env_present()]
        if not found:
            raise ValueError("some of the scheduler's variables are missing")
        cluster = found[0]
        count = cluster.get_process_count()
        if count == 1:
            return None
        port = os.environ.get("JAX_COORDINATOR_PORT")
        address = os.environ.get("JAX_COORDINATOR_ADDRESS") or cluster.get_coordinator_address(
            timeout_secs=int(timeout), override_coordinator_port=port
        )
        return ProcessSpec(address, count, cluster.get_process_id(), timeout, True)
    except Exception as error:  # A metadata server or a cluster's API can fail in any way.
        raise UserError(
            f"this looks like one of several processes, but JAX can't find the others "
            f"({' '.join(str(error).split()) or type(error).__name__}); name them with "
            "distributed.coordinator, .num_processes and .process_id"
        ) from None


def _more_than_one(name: str) -> bool:
    value = os.environ.get(name, "")
    return value.isdecimal() and int(value) > 1


def _on_tpu_vm() -> bool:
    # This variable marks a sandbox without Google's metadata server, which JAX would wait for.
    if os.environ.get("TPU_SKIP_MDS_QUERY") or not any(
        Path("/dev").glob(pattern) for pattern in ("accel[0-9]*", "vfio/[0-9]*")
    ):
        return False
    import jax  # noqa: F401 (it sets the variable if it finds no TPU chip)

    has_library = "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None
    return has_library and "TPU_SKIP_MDS_QUERY" not in os.environ


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
"""How each environment shows that it holds several processes."""
