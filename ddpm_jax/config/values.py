"""Plain values, as JSON has them, checked against type annotations."""

import json
import types
import typing
from typing import Any, Literal

import numpy as np

from ddpm_jax.errors import UserError, require, shown

FINITE = "a finite number that float32 can hold"


def members(hint: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the one type itself."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)


def in_float32(value: float) -> bool:
    """Whether float32, in which all computing is done, holds a number near this one."""
    # Python's own numbers compare with whole numbers of any length; NumPy's overflow.
    limits = np.finfo(np.float32)
    return value == 0 or float(limits.tiny) <= abs(value) <= float(limits.max)


def from_text(text: str) -> Any:
    """Returns the plain value that a text is in JSON or in Python; else the text itself."""
    try:
        return json.loads(_PYTHON.get(text, text))
    except ValueError:
        return text


_PYTHON = {"True": "true", "False": "false", "None": "null"}


def typed(hint: Any, value: Any, dotted: str) -> Any:
    """Returns a plain value as its type: lists become tuples, whole numbers floats.

    Raises UserError, with the dotted name of the setting, for a value of another type.
    """
    for member in members(hint):
        origin, args = typing.get_origin(member), typing.get_args(member)
        if member is Any or (origin is Literal and value in args):
            return value
        if origin is tuple and isinstance(value, list | tuple):
            inner = args[:1] * len(value) if args[-1] is Ellipsis else args
            if len(inner) == len(value):
                return tuple(
                    typed(each, item, dotted) for each, item in zip(inner, value, strict=True)
                )
        if member is type(None) and value is None:
            return None
        if member is float and isinstance(value, int | float) and not isinstance(value, bool):
            require(in_float32(value), dotted, value, FINITE)
            return float(value)
        if isinstance(member, type) and type(value) is member:
            return value
    named = str(getattr(hint, "__name__", hint)).replace("typing.", "")
    raise UserError(f"{dotted} is {shown(value)}; it must be {named}")
