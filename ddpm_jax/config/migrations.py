"""Migrations: what older versions saved is lifted to today's format, one step at a time.

`config.json` and a checkpoint's `meta.json` carry `format`; without it they are of format 0. When a
setting gets another name or form, or an array another name or layout, add a module `format_N` with
the step from format N, and its row to MIGRATIONS. A step must not depend on today's defaults or
tables, because they may change later.
"""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ddpm_jax.config import format_0
from ddpm_jax.errors import UserError

Plain = dict[str, Any]
"""A config as nested plain values, as JSON has it."""
Arrays = Mapping[str, Any]
"""The arrays of a checkpoint, or their shapes while traced, by their names in `arrays.json`."""


def _unchanged(arrays: Arrays, config: Plain) -> Arrays:
    return arrays


class Migration(NamedTuple):
    """One step, from a format to the next."""

    config: Callable[[Plain], Plain]
    """Lifts a config; settings may be missing. It must not change its argument."""
    arrays: Callable[[Arrays, Plain], Arrays] = _unchanged
    """Lifts the arrays of a checkpoint; the config is the one before this step."""


MIGRATIONS: tuple[Migration, ...] = (
    Migration(config=format_0.lift_config, arrays=format_0.lift_arrays),
)
FORMAT = len(MIGRATIONS)
"""The format that this version writes."""


def lift(config: Plain, saved: Any) -> Plain:
    """Lifts a config that was saved in an older format to today's format.

    Raises UserError for a format that this version does not know.
    """
    for migration in steps_from(saved):
        config = migration.config(config)
    return config


def lift_arrays(arrays: Arrays, config: Plain, saved: Any) -> Arrays:
    """Returns the arrays of a checkpoint, saved with that config, in today's format.

    Raises UserError for a format that this version does not know.
    """
    for migration in steps_from(saved):
        arrays, config = migration.arrays(arrays, config), migration.config(config)
    return arrays


def steps_from(saved: Any) -> tuple[Migration, ...]:
    """Returns the migrations from a format to today's; raises UserError as `check_format` does."""
    check_format(saved)
    return MIGRATIONS[saved:]


def check_format(saved: Any) -> None:
    """Raises UserError for a format that this version does not know, naming both versions."""
    if type(saved) is not int or saved < 0:
        raise UserError(f"format is {saved!r}; it must be a whole number")
    if saved > FORMAT:
        own = importlib.metadata.version("ddpm_jax")
        raise UserError(
            f"format is {saved}, and ddpm_jax {own}, installed here, reads formats up to {FORMAT}; "
            "install a newer one"
        )
