"""`ddpm info`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ddpm_jax.cli.arguments import read_command
from ddpm_jax.cli.console import show, warn
from ddpm_jax.errors import UserError


@dataclass(frozen=True)
class Options:
    """Prints parameters, FLOPs, memory, devices and data set size of a config or a run."""

    devices: int | None = None
    """Predict for this many devices, which need not exist: the bytes that each holds and sends, and
    the efficiency of known TPUs and GPUs, with all assumptions."""
    target: str | None = None
    """Compile for an accelerator that need not be there, v5e:2x4 or h100:8, and print what its
    compiler says: whether it fits, what is exchanged, and for TPUs the cycles of a step and where
    they go. It takes minutes."""
    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    """Prints the facts about a config."""
    asked = read_command("ddpm info", "CONFIG|RUN", words, Options)
    if asked.options.target is not None:
        if asked.options.devices is not None:
            raise UserError("--target says how many devices there are; leave --devices out")
        from ddpm_jax.reports.targets import compiling, printing

        said = compiling.compile_for(asked.config, asked.options.target, report=warn)
        _print(said, printing.lines, asked.options.json)
        return 0
    if asked.options.devices is None:
        from ddpm_jax.reports.info import describe

        show(describe(asked.config, report=warn), asked.options.json)
        return 0
    from ddpm_jax.reports import scaling

    found = scaling.predict_scaling(asked.config, asked.options.devices)
    _print(found, scaling.lines, asked.options.json)
    return 0


def _print(
    found: dict[str, Any], lines: Callable[[dict[str, Any]], list[str]], json_: bool
) -> None:
    print(json.dumps(found, indent=2) if json_ else "\n".join(lines(found)))
