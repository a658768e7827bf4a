"""`ddpm info`."""

import json
from dataclasses import dataclass

from ddpm_jax.cli.arguments import read_command
from ddpm_jax.cli.console import show, warn


@dataclass(frozen=True)
class Options:
    """Prints parameters, FLOPs, memory, devices and data set size of a config or a run."""

    devices: int | None = None
    """Predict for this many devices, which need not exist: the bytes that each holds and sends, and
    the efficiency of TPU v5e, v5p and H100, with all assumptions."""
    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    """Prints the facts about a config."""
    asked = read_command("ddpm info", "CONFIG|RUN", words, Options)
    if asked.options.devices is None:
        from ddpm_jax.reports.info import describe

        show(describe(asked.config, report=warn), asked.options.json)
        return 0
    from ddpm_jax.reports import scaling

    found = scaling.predict_scaling(asked.config, asked.options.devices)
    print(json.dumps(found, indent=2) if asked.options.json else "\n".join(scaling.lines(found)))
    return 0
