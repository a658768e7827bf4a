"""Memory: how much is free, and what needs more of it, as one line that says how to need less."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError

_CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class OutOfMemory(UserError):
    """Something needs more memory than there is."""


def free_bytes() -> int | None:
    """Returns the free memory of this machine, at most its container's limit; None if unknown."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(int(next(x for x in lines if x.startswith("MemAvailable")).split()[1]) * 1024)
    for path in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # The limit may be the word "max".
            found.append(int(Path(path).read_text()))
    return min(found, default=None)


def device_bytes(device: Any) -> int | None:
    """Returns the memory that programs may use on a device; None if unknown."""
    if device.platform == "cpu":
        return free_bytes()
    return (device.memory_stats() or {}).get("bytes_limit")


def planned_bytes(compiled: Any) -> int | None:
    """Returns a compiled program's peak bytes on one device, as planned; None if unknown."""
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    # Donated buffers count once: the new state is written over the old one.
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )


def require_memory(need: int, have: int | None, what: str, fix: str) -> None:
    """Raises OutOfMemory if `what` needs more bytes than there are; None stands for any number."""
    if have is not None and need > have:
        raise OutOfMemory(f"{what} need {_size(need)}, and {_size(have)} of memory is free; {fix}")


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"


@contextmanager
def memory_errors(fix: str) -> Iterator[None]:
    """Turns the errors of XLA and NumPy that memory has run out into OutOfMemory."""
    from jax.errors import JaxRuntimeError

    try:
        yield
    except (MemoryError, JaxRuntimeError) as error:
        if isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".")
        reason = reason.removeprefix("RESOURCE_EXHAUSTED: ")
        raise OutOfMemory(f"memory has run out ({reason[:200]}); {fix}") from error
