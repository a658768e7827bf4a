"""tyro's errors as one line."""

import itertools
import re
import typing
from collections.abc import Sequence
from typing import Any, Literal

from ddpm_jax.config import Setting
from ddpm_jax.config.values import members


def sentence(boxed: str, words: Sequence[str], settings: Sequence[Setting]) -> str:
    """Returns tyro's sentence about the words; for a value of another type, a shorter one."""
    line = _one_line(boxed)
    match = re.match(r"Error parsing --([\w.]+)", line)
    types = {each.name: each.type for each in settings}
    if not match or match[1] not in types:
        return line
    start = next(at for at, word in enumerate(words) if word.split("=")[0] == f"--{match[1]}")
    given = itertools.takewhile(lambda word: not word.startswith("--"), words[start + 1 :])
    values = " ".join([*words[start].split("=", 1)[1:], *given])
    kinds = " or ".join(_readable(each) for each in members(types[match[1]]))
    return f"--{match[1]} is {values}; it must be {kinds}"


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


def _readable(hint: Any) -> str:
    """Returns a type in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        several = ", ".join(_readable(each) for each in args if each is not ...)
        return f"any number of: {several}" if args[-1] is ... else several
    return "None" if hint is type(None) else _WORDS.get(hint, str(hint))


def _one_line(boxed: str) -> str:
    """Takes the sentence out of tyro's box, and leaves out the help text below its rule.

    On terminals without UTF-8 the box is made of hyphens, and a rule stands above the sentence too.
    """
    text: list[str] = []
    for line in boxed.splitlines()[1:]:
        if "──" in line or "---" in line:
            if text:
                break
        elif words := re.sub(r"[│╭╮╰╯─]", "", line).strip():
            text.append(words)
    return " ".join(" ".join(text).split()) or "these options can't be read"
