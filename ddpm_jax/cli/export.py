"""`ddpm export`."""

from dataclasses import dataclass
from typing import Literal

from ddpm_jax.cli.arguments import options_of, settings_of, target_of, with_rows
from ddpm_jax.cli.console import warn
from ddpm_jax.cli.flags import HELP, read
from ddpm_jax.config.checks import require_row
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.run import load
from ddpm_jax.weights.formats import WRITERS, export_weights


@dataclass(frozen=True)
class Options:
    """Writes a run's parameters for another program, into the new folder DIR."""

    to: str | None = None
    """The format. Required."""
    checkpoint: int | Literal["best"] | None = None
    """Step of the checkpoint, or best; if left out, the newest good one."""
    params: str | None = None
    """The name of an average of the parameters, or raw; if left out, the first average."""


def run(words: list[str]) -> int:
    """Writes the folder, and prints what is in it."""
    if words and words[-1] in HELP:
        shown = with_rows(
            [
                each._replace(rows=tuple(WRITERS)) if each.name == "to" else each
                for each in settings_of(Options)
            ]
        )
        read("ddpm export RUN DIR", ["--help"], shown, (Options.__doc__ or "").strip())
    target, words = target_of(words, "ddpm export", "RUN")
    folder, words = target_of(words, f"ddpm export {target}", "DIR")
    options = options_of(Options, f"ddpm export {target} {folder}", words)
    if options.to is None:
        raise UserError(f"ddpm export {target} {folder} needs --to {' or '.join(WRITERS)}")
    require_row("--to", options.to, WRITERS)
    found = load(target, checkpoint=options.checkpoint, params=options.params, report=warn)
    names = found.class_names
    for line in export_weights(options.to, found.config, found.params, folder, class_names=names):
        warn(line)
    print(f"step {found.step} of {target}, {found.name}, is in {folder} for {options.to}")
    return 0
