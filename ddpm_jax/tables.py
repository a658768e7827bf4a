"""How every table of this package is looked up, so that a mistake reads the same everywhere."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from ddpm_jax.errors import nearest

Row = TypeVar("Row")


class Choice:
    """The name of a table's row, with the options that are given to it: `Choice("ddim", eta=0.5)`.

    Immutable and hashable. Which options there are, and their defaults, is said by the row's own
    signature alone: `complete` checks against it and fills in what was left out.
    """

    __slots__ = ("name", "options")

    name: str
    options: Mapping[str, Any]

    def __init__(self, name: str, **options: Any):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", MappingProxyType(options))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Choice is immutable; make another one instead of setting {name}")

    def _key(self) -> tuple[Any, ...]:
        return self.name, tuple(sorted(self.options.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        words = [repr(self.name), *(f"{name}={value!r}" for name, value in self.options.items())]
        return f"Choice({', '.join(words)})"

    def complete(self, kind: str, table: Mapping[str, Callable]) -> "Choice":
        """Returns the choice with all options of its row, the row's defaults for those left out.

        `kind` is what the table holds, for the message. Raises ValueError for a name that is not
        in the table, and for an option that the row does not take.
        """
        row = choose(kind, table, self.name)
        require_options(f"{kind} {self.name!r}", self.options, options_of(row))
        return Choice(self.name, **{**defaults_of(row), **self.options})


def choose(kind: str, table: Mapping[str, Row], name: str) -> Row:
    """Returns `table[name]`; raises ValueError with the nearest and all known names otherwise."""
    if name not in table:
        known = ", ".join(table)
        raise ValueError(f"unknown {kind} {name!r}{nearest(name, list(table))}: known are {known}")
    return table[name]


def options_of(row: Callable) -> list[str]:
    """Returns the options that a row takes: the keyword-only parameters of its signature."""
    parameters = inspect.signature(row).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def defaults_of(row: Callable) -> dict[str, Any]:
    """Returns the default of each option that a row takes and that has one."""
    parameters = inspect.signature(row).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }


def require_options(owner: str, given: Iterable[str], known: list[str]) -> None:
    """Raises ValueError for the first given option that is not among the known ones."""
    for option in given:
        if option not in known:
            takes = ", ".join(known) if known else "no options"
            hint = nearest(option, known)
            raise ValueError(f"{owner} takes no {option!r}{hint}: it takes {takes}")


def settings_for(
    kind: str, table: Mapping[str, Callable], row: Callable, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns those of the table's settings that one row takes.

    One config can so hold the settings of all rows and choose a row by name. A setting that no
    row of the table takes is a slip of the pen, and raises ValueError.
    """
    require_options(
        f"a {kind}", settings, sorted({o for r in table.values() for o in options_of(r)})
    )
    return {option: settings[option] for option in options_of(row) if option in settings}
