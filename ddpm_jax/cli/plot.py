"""`ddpm plot`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_jax import config as configs
from ddpm_jax.cli.arguments import config_of, settings_of, target_of
from ddpm_jax.cli.console import bar, warn
from ddpm_jax.cli.flags import HELP, read
from ddpm_jax.config import Config, Setting
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.files import StoragePath, storage_path
from ddpm_jax.reports import figures
from ddpm_jax.tables import options_of

Figure = tuple[str, dict[str, Any]]
"""The name of a figure, and its options."""
_OF_A_RUN = ("samples", "loss")
"""What is drawn of a run whose config names no figures."""


@dataclass(frozen=True)
class Options:
    """Draws a figure of a run, or of a config's data and schedule.

    Without FIGURE it draws those that the config lists; if it lists none, samples and loss.
    """

    output: str | None = None
    """Output file; if left out, FIGURE.png or .gif, in a run's folder or here for a config."""
    seed: int = 0
    """Seed of the samples, or of the choice of examples."""


def run(words: list[str]) -> int:
    """Draws one figure, or those that the config names."""
    if words and words[-1] in HELP:
        read(f"ddpm plot CONFIG|RUN [{_names()}]", ["--help"], _settings(), _about())
    target, words = target_of(words, "ddpm plot", "CONFIG|RUN")
    config = config_of(target)
    wanted = [_figure(words, f"ddpm plot {target}")] if words else own_figures(config)
    folder = storage_path(target)
    run = folder if folder.is_dir() else None
    if not wanted and run is None:
        raise UserError(f"ddpm plot {target} needs a figure, {_names()}: its config names none")
    draw(config, run, wanted or [(name, {}) for name in _OF_A_RUN])
    if shown := configs.describe_shown(config.data):
        print(shown)
    return 0


def own_figures(config: Config) -> list[Figure]:
    """Returns the figures that a config names; raises UserError for one that can't be drawn."""
    return [_figure(words.split(), f'figures: "{words}"') for words in config.figures]


def draw(
    config: Config,
    folder: StoragePath | None,
    wanted: Sequence[Figure],
    report: Callable[[str], None] = warn,
) -> None:
    """Draws figures and prints where they are."""
    for name, options in wanted:
        shared = {"progress": bar("sampling"), "report": report}
        print(figures.draw(name, config, folder, **shared, **options))


def _figure(words: Sequence[str], prog: str) -> Figure:
    name = figures.row_name(words[0]) if words else "nothing"
    if name not in figures.FIGURES:
        hint = nearest(name, list(figures.FIGURES))
        raise UserError(f"{prog} needs a figure, {_names()}; not {name}{hint}")
    given = read(f"{prog} {name}", words[1:], _settings())
    options = {option: value for option, value in given.items() if value is not None}
    figures.check(name, options)
    return name, options


def _settings() -> list[Setting]:
    return [*settings_of(Options), *configs.option_settings(figures.FIGURES)]


def _names() -> str:
    return "|".join(figures.FIGURES)


def _about() -> str:
    lines = [(Options.__doc__ or "").strip(), ""]
    for name, figure in figures.FIGURES.items():
        first = (figure.__doc__ or "").strip().splitlines()[0]
        flags = " ".join(f"--{option}" for option in options_of(figure))
        lines.append(f"{name}: {first} {flags}".rstrip())
    return "\n\n".join(line for line in lines if line)
