"""Checks of what a draw of samples is given."""

from typing import Any

import numpy as np

from ddpm_jax.errors import UserError, require_whole


def check_range(first: int, num: int) -> None:
    """Raises UserError unless first … first+num-1 are samples: a seed has 2³² of them."""
    require_whole("the number of samples", num, most=2**32)
    require_whole("first", first, 0, 2**32 - 1)
    if first + num > 2**32:
        raise UserError(f"first is {first}: the last sample of a seed is {2**32 - 1}; take another")


def check_label_count(count: int, num: int) -> None:
    """Raises UserError unless `num` samples can take so many labels in turn."""
    if not 1 <= count <= num:
        raise UserError(f"there are {count} labels for {num} samples; give at most {num}")


def rows_for(name: str, array: Any, num: int, dtype: Any = None) -> np.ndarray:
    """Returns the array; raises UserError unless it has one row for each of `num` samples."""
    if np.ndim(array) == 0 or len(array) != num:
        raise UserError(f"{name} has the shape {np.shape(array)}; it must have {num} rows")
    return np.asarray(array, dtype)


def require_floats(name: str, array: Any) -> None:
    """Raises UserError unless the array has floats."""
    dtype = np.asarray(array).dtype
    if not np.issubdtype(dtype, np.floating):
        raise UserError(f"{name} has the type {dtype}; give floats, for pictures in [-1, 1]")
