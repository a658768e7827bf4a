"""How every table of this package is looked up, so that a mistake reads the same everywhere."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ddpm_jax.errors import nearest

Row = TypeVar("Row")


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
