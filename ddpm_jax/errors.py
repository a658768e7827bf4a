"""Errors shown to the user."""

import numbers
import re
from typing import Any


class UserError(Exception):
    """A mistake that the user can fix: one line that says what, where and how to fix it.

    The command line prints the message and exits with code 2; from Python it is an ordinary
    exception. Everything else that is raised is a defect of ours and keeps its traceback.
    """


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns ` (did you mean X?)` for a known name that is near, or an empty string.

    Near is a name of which most letters agree, also in the part behind the last dot or slash, and
    a name that begins with what was given.
    """
    import difflib

    def likeness(one: str, other: str) -> float:
        return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()

    def last(text: str) -> str:
        return re.split(r"[./](?!py$)", text)[-1].lstrip("-")

    def near(other: str) -> float:
        begins = len(last(name)) >= 3 and other.startswith(name)
        whole, part = likeness(name, other), likeness(last(name), last(other))
        return whole if begins or min(whole, part) >= 0.74 else 0.0

    best = max(known, key=near, default="")
    return f" (did you mean {best}?)" if best and near(best) else ""


INT32_MAX = 2**31 - 1


def require_whole(name: str, value: Any, least: int = 1, most: int = INT32_MAX) -> None:
    """Raises UserError unless the value is a whole number in least … most."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    require(whole, name, value, "a whole number")
    value = int(value)
    need = f"at most {most:,}" if value > most else f"at least {least}" if least else "0 or more"
    require(least <= value <= most, name, value, need)


def require(ok: bool, name: str, value: Any, need: str) -> None:
    """Raises UserError, which says what the value must be, unless it is ok."""
    if not ok:
        raise UserError(f"{name} is {shown(value)}; it must be {need}")


def shown(value: Any) -> str:
    """Returns a value in at most 100 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of more than 4,300 digits.
        text = "a number too long to print"
    return text if len(text) <= 100 else f"{text[:97]}…"
