"""`ddpm bench`."""

from dataclasses import dataclass

from ddpm_jax.cli.arguments import read_command
from ddpm_jax.cli.console import show, warn


@dataclass(frozen=True)
class Options:
    """Measures compiling, training and sampling on this machine, over five windows of steps.

    It also prints which fraction of this machine's fastest matrix product they reach.
    """

    steps: int = 10
    """Steps of each window."""
    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    """Prints how fast a config runs here."""
    asked = read_command("ddpm bench", "CONFIG|RUN", words, Options)
    from ddpm_jax.reports.bench import bench

    show(bench(asked.config, steps=asked.options.steps, progress=warn), asked.options.json)
    return 0
