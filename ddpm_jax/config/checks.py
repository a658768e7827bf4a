"""Checks of settings; the message has the dotted name, the value, and what it must be."""

import numbers
from collections.abc import Iterable

from ddpm_jax.errors import UserError, nearest, require, shown


def check_seed(seed: int) -> None:
    """Raises UserError unless the seed is an unsigned 32-bit number."""
    whole = isinstance(seed, numbers.Integral) and 0 <= seed < 2**32
    require(whole, "seed", seed, "in 0 … 4294967295")


def require_row(name: str, value: object, table: Iterable[str]) -> None:
    """Raises UserError, with the nearest name, unless the value is a row of the table."""
    rows = sorted(table)
    if value not in rows:
        need = f"one of {', '.join(rows)}{nearest(str(value), rows)}"
        raise UserError(f"{name} is {shown(value)}; it must be {need}")
