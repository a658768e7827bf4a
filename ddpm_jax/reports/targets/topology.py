"""Accelerators by name, and devices of them that can be compiled for without being there."""

import importlib.util
import math
import re
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError, nearest
from ddpm_jax.reports.hardware import HARDWARE, Hardware


class Kind(NamedTuple):
    """A kind of accelerator that a compiler here knows."""

    hardware: str
    """A row of HARDWARE."""
    platform: str
    """tpu or cuda."""
    axes: int = 1
    """The number of sides of a slice of TPUs; a number of GPUs has one."""
    gpu: dict[str, Any] | None = None
    """What XLA asks of a GPU, in its own terms, besides what HARDWARE has."""


# Every GPU's; from the table of compute capabilities in the CUDA C++ programming guide.
_GPU = {
    "threads_per_warp": 32,
    "threads_per_block_limit": 1024,
    "threads_per_core_limit": 2048,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "shared_memory_per_block": 48 * 2**10,
}

KINDS = {
    "v4": Kind("TPU v4", "tpu", axes=3),
    "v5e": Kind("TPU v5e", "tpu", axes=2),
    "v5p": Kind("TPU v5p", "tpu", axes=3),
    "v6e": Kind("TPU v6e", "tpu", axes=2),
    "a100": Kind(
        "A100 SXM 40GB",
        "cuda",
        gpu={
            **_GPU,
            "cuda_compute_capability": {"major": 8, "minor": 0},
            "core_count": 108,
            "fpus_per_core": 64,
            "clock_rate_ghz": 1.41,
            "l2_cache_size": 40 * 2**20,
            "shared_memory_per_core": 164 * 2**10,
            "shared_memory_per_block_optin": 163 * 2**10,
        },
    ),
    "h100": Kind(
        "H100 SXM",
        "cuda",
        gpu={
            **_GPU,
            "cuda_compute_capability": {"major": 9, "minor": 0},
            "core_count": 132,
            "fpus_per_core": 128,
            "clock_rate_ghz": 1.98,
            "l2_cache_size": 50 * 2**20,
            "shared_memory_per_core": 228 * 2**10,
            "shared_memory_per_block_optin": 227 * 2**10,
        },
    ),
}


class Target(NamedTuple):
    """So many devices of one kind."""

    name: str
    """As it was asked for: v5e:2x4, h100:8."""
    kind: Kind
    shape: tuple[int, ...]

    @property
    def hardware(self) -> Hardware:
        return HARDWARE[self.kind.hardware]

    @property
    def devices(self) -> int:
        return math.prod(self.shape)


def read_target(text: str) -> Target:
    """Returns the target that a text such as v5e:2x4, v5p:2x2x1 or h100:8 names.

    Without a shape it is one device. Raises UserError for an unknown kind, a wrong shape, and if
    the compiler of this kind is not installed.
    """
    name, colon, wanted = text.partition(":")
    kind = KINDS.get(name)
    if kind is None:
        hint = nearest(name, list(KINDS))
        raise UserError(
            f"target is {text!r}: there is no {name}{hint}; there are {', '.join(KINDS)}"
        )
    example = "x".join("224"[3 - kind.axes :]) if kind.platform == "tpu" else "8"
    sides = wanted.split("x") if colon else ["1"] * kind.axes
    if len(sides) != kind.axes or not all(re.fullmatch("[1-9][0-9]{0,4}", each) for each in sides):
        raise UserError(f"target is {text!r}; it must be like {name}:{example}, or {name} for one")
    _require_compiler(name, kind.platform)
    return Target(text, kind, tuple(map(int, sides)))


def _require_compiler(name: str, platform: str) -> None:
    """Raises UserError, which says what to install, if nothing here compiles for a platform."""
    if not _compilers(platform):
        extra = {"tpu": "tpu", "cuda": "cuda"}[platform]
        raise UserError(
            f"target {name} needs the compiler of its platform, which is not installed; "
            f"pip install 'ddpm_jax[{extra}]' (no {platform.upper()} device is needed)"
        )


def _compilers(platform: str) -> list[str]:
    names = {"tpu": ["libtpu"], "cuda": ["jax_cuda13_plugin", "jax_cuda12_plugin"]}[platform]
    return [name for name in names if importlib.util.find_spec(name)]


# What libtpu is told where there is no TPU. It must not ask the cloud what machine this is, wait
# for other hosts, or refuse because another process has it loaded. JAX works on the CPU.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices_of(target: Target) -> list[Any]:
    """Returns devices to compile for, in a process that has started with ENVIRONMENT.

    Raises UserError for a shape that the platform's compiler does not know.
    """
    import jax
    from jax.experimental import topologies

    jax.devices()  # Finds the plugins of other platforms.
    options: dict[str, Any] = {}
    if target.kind.platform == "cuda":
        node = min(target.devices, target.hardware.node)
        topology = f"1x{-(-target.devices // node)}x{node}"
        options = {"topology": topology, "target_config": _gpu_config(target)}
        name = ""
    else:
        name = f"{target.name.partition(':')[0]}:{'x'.join(map(str, target.shape))}"
        if target.devices == 1:  # By default a host has four chips.
            options["chips_per_host_bounds"] = (1, 1, 1)
        if target.kind.hardware == "TPU v4":  # Its two cores work as one device.
            options["chip_config_name"] = "megacore"
    try:
        found = topologies.get_topology_desc(name, target.kind.platform, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"target is {target.name!r}, which its compiler refuses: {reason}"
        ) from None
    return list(found)


def _gpu_config(target: Target) -> str:
    """Returns the text of XLA's GpuTargetConfigProto for a GPU."""
    row, gpu = target.hardware, target.kind.gpu or {}
    device = {
        **gpu,
        "device_memory_size": row.memory,
        "memory_bandwidth": int(row.memory_rate),
    }
    whole = {
        "gpu_device_info": device,
        "platform_name": "CUDA",
        # cuDNN is not here either; this is the version that XLA may count on.
        "dnn_version_info": {"major": 9, "minor": 10, "patch": 0},
        "device_description_str": target.kind.hardware,
    }
    return _proto(whole)


def _proto(fields: dict[str, Any]) -> str:
    """Returns a protocol buffer's text form."""

    def field(name: str, value: Any) -> str:
        if isinstance(value, dict):
            return f"{name} {{ {_proto(value)} }}"
        return f'{name}: "{value}"' if isinstance(value, str) else f"{name}: {value}"

    return " ".join(field(name, value) for name, value in fields.items())
