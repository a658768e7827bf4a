"""`ddpm evaluate`."""

from dataclasses import dataclass
from typing import Literal

from ddpm_jax import config as configs
from ddpm_jax.cli.arguments import Shared, options_of, settings_of, target_of, with_rows
from ddpm_jax.cli.console import bar, show, warn
from ddpm_jax.cli.flags import HELP, read, split
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.runtime.distributed import is_first
from ddpm_jax.sampling.run import load


@dataclass(frozen=True)
class Options:
    """Compares samples of a run with its data, or with other data (--data.split test)."""

    metrics: tuple[str, ...] | None = None
    """Names of metrics; if left out, all that apply to the data."""
    seed: int = 0
    """Seed of the samples."""
    checkpoint: int | Literal["best"] | None = None
    """Step of the checkpoint, or best; if left out, the newest good one."""
    params: str | None = None
    """The name of an average of the parameters, or raw; if left out, the first average."""
    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    """Prints the metrics of a run."""
    if words and words[-1] in HELP:
        shown = with_rows([*settings_of(Options), *configs.settings(Shared())])
        read("ddpm evaluate RUN", ["--help"], shown, (Options.__doc__ or "").strip())
    target, words = target_of(words, "ddpm evaluate", "RUN")
    prog = f"ddpm evaluate {target}"
    of_data, words = split(words, lambda name: name.startswith("data."))
    options = options_of(Options, prog, words)
    run = load(target, checkpoint=options.checkpoint, params=options.params, report=warn)
    given = read(prog, of_data, configs.settings(run.config))
    data = configs.override(run.config, given).data
    values = evaluate(run, options.metrics, data=data, seed=options.seed, progress=bar)
    if is_first():
        show(values, options.json)
    return 0
