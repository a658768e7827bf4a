"""Options of the XLA compiler for a device, and the folder of compiled programs."""

import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

from ddpm_jax.files import cache_folder

# On a CPU, XLA hands sums to another library. By default it hands over convolutions as well, which
# makes a U-Net's training step 1.5 times as long.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
# Of a program that runs once, most of the time goes into its compilation.
_CPU_OPTIONS_ONCE = {"xla_backend_optimization_level": 0}


def compiler_options(device: Any, *, once: bool = False) -> dict[str, Any]:
    """Returns the `compiler_options` of `jax.jit` for a device, without those in $XLA_FLAGS.

    Options come and go with XLA's versions, so an option that this XLA does not know is left out.
    `once` is for a program that runs a single time.
    """
    if device.platform != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        name: value
        for name, value in (_CPU_OPTIONS_ONCE if once else _CPU_OPTIONS).items()
        if name not in flags and _is_known(name, value)
    }


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    import jax

    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def enable_compilation_cache() -> None:
    """Makes JAX keep compiled programs for the next start; call it before JAX is imported.

    The folder is in the user's cache, unless the environment names another one or turns it off.
    """
    folder = cache_folder()
    if folder is None:
        return
    # A CPU's programs fit one kind of processor only, and several machines may share a home folder.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / f"programs-{_machine()}"))
    # JAX's default limit, one second, would leave out the small programs that start sampling.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _machine() -> str:
    """Returns a short name of this machine's kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = sorted({line for line in lines if line.startswith(("flags", "Features"))})
    except OSError:
        kind = [platform.processor()]
    return hashlib.sha256(repr((platform.machine(), kind)).encode()).hexdigest()[:8]
