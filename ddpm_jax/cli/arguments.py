"""From the words of a command line to a command's options and a config.

Every flag is a `Setting`, derived from the dataclass or the row's signature that it fills.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from ddpm_jax import config as configs
from ddpm_jax.cli.flags import HELP, SWITCH, read, split
from ddpm_jax.config import Config, Setting
from ddpm_jax.config.files import SHIPPED
from ddpm_jax.errors import UserError
from ddpm_jax.files import Remote, storage_path
from ddpm_jax.runtime.distributed import DistributedOptions as Distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Shared:
    """The settings of every command whose work several processes can share."""

    distributed: Distributed = field(default_factory=Distributed)


def settings_of(cls: type) -> list[Setting]:
    """Returns the flags of a command's own options; `--json` alone means True."""
    found = configs.settings(cls())
    return [each._replace(type=SWITCH) if each.type is bool else each for each in found]


def options_of(cls: type[T], prog: str, words: Sequence[str]) -> T:
    """Reads a command's own options, and nothing else, from the words."""
    return built(cls, read(prog, words, settings_of(cls)))


def built(cls: type[T], given: dict[str, Any]) -> T:
    """Returns a dataclass with settings given by dotted name; the others keep their defaults."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = item.name.rstrip("_")
        inner = {
            k.removeprefix(f"{name}."): v for k, v in given.items() if k.startswith(f"{name}.")
        }
        if inner:
            values[item.name] = built(type(getattr(cls(), item.name)), inner)
        elif name in given:
            values[item.name] = given[name]
    return cls(**values)


def with_rows(settings: Sequence[Setting]) -> list[Setting]:
    """Returns settings whose help shows the rows of the tables that lists of names choose from."""
    # Tables of rooms that need not be imported to read the words.
    from ddpm_jax.evaluation.features import FEATURES
    from ddpm_jax.evaluation.metrics import METRICS
    from ddpm_jax.training.logging.run_logger import CHOSEN

    rows = {"train.loggers": CHOSEN, "metrics": METRICS, "features": FEATURES}
    rows["validation.metrics"] = METRICS
    return [each._replace(rows=tuple(rows.get(each.name, each.rows))) for each in settings]


class CommandInput(NamedTuple):
    """What the words of a command with a config mean."""

    target: str
    options: Any
    config: Config


def read_command(
    prog: str, what: str, words: list[str], cls: type, more: Sequence[Setting] = ()
) -> CommandInput:
    """Reads a config file, its name or a run, the command's own options, and other settings.

    `smoke` among the options asks for the file's small version. `more` only appears in the help.
    """
    own = [*settings_of(cls), *more]
    about = (cls.__doc__ or "").strip()
    if words and words[0] in HELP:
        shipped = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.py")))
        about = f"{about}\n\nThe shipped configs are {shipped}."
        read(f"{prog} {what}", words, with_rows([*own, *configs.settings(Config())]), about)
    target, words = target_of(words, prog, what)
    prog = f"{prog} {target}"
    mine, rest = split(words, {each.name for each in own}.__contains__)
    options = built(cls, read(prog, mine, own, about))
    config = config_of(target, smoke=getattr(options, "smoke", False))
    helps = any(word in HELP for word in rest)
    known = [*own, *configs.settings(config)]
    given = read(prog, rest, with_rows(known) if helps else known, about)
    return CommandInput(target, options, configs.override(config, given))


def target_of(words: Sequence[str], prog: str, what: str) -> tuple[str, list[str]]:
    """Splits off the first word, which must not be a flag."""
    if not words or words[0].startswith("-"):
        example = "runs/digits" if what == "RUN" else "digits"
        raise UserError(f"{prog} needs a {what} first, as in: {prog} {example}")
    return words[0], list(words[1:])


def config_of(target: str, *, smoke: bool = False) -> Config:
    """Returns the config of a run folder, a config file or a shipped config's name."""
    path = storage_path(target)
    if path.is_dir():
        if smoke:
            raise UserError(f"--smoke is for config files, and {path} is a run; leave it out")
        described = path / "config.json"
        if not described.is_file():
            raise UserError(f"{path} has no config.json: it is not the folder of a run")
        return configs.loads(described.read_bytes(), str(described))
    if isinstance(path, Remote):
        raise UserError(f"{path} does not exist; it must be the folder of a run")
    return configs.load_file(target, smoke=smoke)
