"""`ddpm import`."""

from dataclasses import dataclass
from typing import Any

from ddpm_jax import config as configs
from ddpm_jax.cli.arguments import built, config_of, settings_of, target_of, with_rows
from ddpm_jax.cli.flags import HELP, read, split
from ddpm_jax.config import Config, Setting
from ddpm_jax.config.checks import require_row
from ddpm_jax.errors import UserError
from ddpm_jax.tables import options_of
from ddpm_jax.training.starting import write_first
from ddpm_jax.weights.formats import READERS, import_weights


@dataclass(frozen=True)
class Options:
    """Makes a run of another project's weights: it is sampled, evaluated and trained on as any.

    SOURCE is the folder or the file that its format has. Settings of a config may be given too,
    such as --data.path PICTURES; those that the weights decide need not be.
    """

    from_: str | None = None
    """The format of SOURCE. Required."""
    workdir: str | None = None
    """New folder of the run. Required."""
    config: str = "folder"
    """Config with the data and the training; its network and its noise are the source's."""


def run(words: list[str]) -> int:
    """Writes a run folder whose only checkpoint is of step 0."""
    own, about = _flags(), (Options.__doc__ or "").strip()
    if words and words[-1] in HELP:
        shown = with_rows([*own, *configs.settings(Config())])
        read("ddpm import SOURCE", ["--help"], shown, about)
    target, words = target_of(words, "ddpm import", "SOURCE")
    prog = f"ddpm import {target}"
    mine, rest = split(words, {each.name for each in own}.__contains__)
    given = read(prog, mine, own, about)
    options = built(Options, {name: given[name] for name in given if name in _names()})
    if options.from_ is None or options.workdir is None:
        known = " or ".join(READERS)
        raise UserError(f"{prog} needs --from {known}, and --workdir with a new folder for the run")
    require_row("--from", options.from_, READERS)
    more = {name: value for name, value in given.items() if name not in _names()}
    for name in more.keys() - set(options_of(READERS[options.from_])):
        raise UserError(f"--{name} is no option of the format {options.from_}")

    def settings(config: Config) -> dict[str, Any]:
        return read(prog, rest, [*own, *configs.settings(config)], about)

    found = import_weights(options.from_, target, config_of(options.config), settings, **more)
    write_first(found.config, found.params, options.workdir, found.class_names)
    print(f"{target} is the run {options.workdir}; try: ddpm sample {options.workdir}")
    return 0


def _names() -> set[str]:
    return {each.name for each in settings_of(Options)}


def _flags() -> list[Setting]:
    own = [
        each._replace(rows=tuple(READERS)) if each.name == "from" else each
        for each in settings_of(Options)
    ]
    return [*own, *configs.option_settings(READERS)]
