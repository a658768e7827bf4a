"""Values of settings from words: tyro reads the flags that a dataclass describes."""

import contextlib
import dataclasses
import io
import typing
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Annotated, Any

import tyro

from ddpm_jax.cli.refusals import sentence
from ddpm_jax.config import Setting, canonical
from ddpm_jax.config.values import members
from ddpm_jax.errors import UserError

HELP = ("-h", "--help")
SWITCH = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""The type of a flag that means True by itself: --json."""


def split(words: Sequence[str], wanted: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Returns the wanted flags with their values, and the other words."""
    taken: list[str] = []
    rest: list[str] = []
    into = rest
    for word in words:
        if word.startswith("--"):
            into = taken if wanted(_name(word)) else rest
        into.append(word)
    return taken, rest


def read(
    prog: str, words: Sequence[str], settings: Sequence[Setting], about: str = ""
) -> dict[str, Any]:
    """Returns the settings that the words give, by their whole dotted names.

    Prints help and raises SystemExit if the words ask for it. Raises UserError for words that can't
    be read.
    """
    if not words:
        return {}
    known = {each.name: each for each in settings}
    given, whole = [], []
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--") and word not in HELP:
            try:
                name = canonical(_name(word), list(known), "--")
            except UserError as error:
                raise UserError(f"{error}; see {prog} --help") from None
            if "=" not in word and following.startswith("--") and not _may_be_bare(known[name]):
                raise UserError(f"--{name} needs a value; see {prog} --help")
            given.append(name)
            word = f"--{name}{word[len(word.split('=')[0]) :]}"
        whole.append(word)
    parsed = _parsed(prog, whole, settings, about)
    return {name: parsed[name] for name in given}


def _name(word: str) -> str:
    return word.removeprefix("--").split("=")[0].replace("-", "_")


def _may_be_bare(setting: Setting) -> bool:
    """Whether a flag without values means something: a switch, or an empty list."""
    kinds = [typing.get_origin(each) for each in members(setting.type)]
    return Annotated in kinds or tuple in kinds


def _parsed(
    prog: str, words: Sequence[str], settings: Sequence[Setting], about: str
) -> dict[str, Any]:
    """Returns the values of all settings as tyro reads them; its errors become one line."""
    helps = any(word in HELP for word in words)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            found = tyro.cli(
                _dataclass(settings, about, helps),
                prog=prog,
                args=list(words),
                use_underscores=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        line = sentence(printed.getvalue(), words, settings)
        raise UserError(f"{line}; see {prog} --help") from None
    values = dataclasses.asdict(found)
    flat = {name: value for name, value in values.items() if name.startswith(_FLAG)}
    for name in values.keys() - flat.keys():
        flat |= values[name]
    return {each.name: flat[_field_name(each)] for each in settings}


# So that `from` can be a field, and a section may have the name of a flag.
_FLAG, _SECTION = "flag_", "section_"


def _dataclass(settings: Sequence[Setting], about: str, helps: bool) -> type:
    """Returns a dataclass with these flags for tyro: one nested dataclass for each section."""
    sections: dict[str, list[Setting]] = {}
    for each in settings:
        sections.setdefault(each.name.partition(".")[0] if "." in each.name else "", []).append(
            each
        )
    fields = [_field(each, "", helps) for each in sections.pop("", [])]
    for name, members_of in sections.items():
        inner = dataclasses.make_dataclass(name, [_field(e, f"{name}.", helps) for e in members_of])
        inner.__doc__ = members_of[0].section
        hint = Annotated[inner, tyro.conf.arg(name=name)]
        fields.append((f"{_SECTION}{name}", hint, field(default_factory=inner)))
    outer = dataclasses.make_dataclass("options", fields)
    outer.__doc__ = about
    return outer


def _field(each: Setting, prefix: str, helps: bool) -> tuple[str, Any, Any]:
    argument = tyro.conf.arg(
        name=each.name.removeprefix(prefix),
        help=each.doc() if helps else "",
        metavar=f"{{{','.join(each.rows)}}}" if each.rows else None,
    )
    hint = Annotated[each.type, argument]
    if each.type is bool:
        hint = Annotated[hint, tyro.conf.FlagConversionOff]
    return _field_name(each), hint, field(default=each.default)


def _field_name(each: Setting) -> str:
    return _FLAG + each.name.replace(".", "__dot__")
