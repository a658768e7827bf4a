"""What XLA is told for the machine it compiles for, and where its programs are kept."""

import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

from ddpm_jax.files import cache_folder

# Which products and sums XLA gives to another library on a CPU. Left to itself it gives that
# library convolutions too, and a U-Net's training step takes 1.5 times as long.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def compiler_options(device: Any) -> dict[str, str]:
    """Returns what `jax.jit` is to tell XLA for programs on such a device; never what the user set.

    An option is XLA's own business, and comes and goes with its versions: one that this XLA does
    not know is left out.
    """
    if device.platform != "cpu":
        return {}
    said = os.environ.get("XLA_FLAGS", "")
    return {
        name: value
        for name, value in _CPU_OPTIONS.items()
        if name not in said and _is_known(name, value)
    }


@functools.cache
def _is_known(name: str, value: str) -> bool:
    import jax

    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def keep_programs() -> None:
    """Lets JAX keep what it compiles for the next start; to be called before JAX is imported.

    In the user's cache folder, unless the environment already says where, or that there is none.
    """
    folder = cache_folder()
    if folder is None:
        return
    # Programs for a CPU are machine code for its very kind, and home folders are shared.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / f"programs-{_machine()}"))
    # JAX's own limit of a second leaves out what sampling is started from.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _machine() -> str:
    """A short name of this machine's kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = sorted({line for line in lines if line.startswith(("flags", "Features"))})
    except OSError:
        kind = [platform.processor()]
    return hashlib.sha256(repr((platform.machine(), kind)).encode()).hexdigest()[:8]
