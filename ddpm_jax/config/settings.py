"""Every setting of a config as a list, from which flags, help texts and forms are made."""

import ast
import dataclasses
import functools
import inspect
import itertools
import sys
import typing
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ddpm_jax.config.choices import ChoiceField, ChoicesField, choice_fields
from ddpm_jax.config.format_0 import RENAMED
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.tables import Choice, Option, defaults_of


class Setting(NamedTuple):
    """One setting."""

    name: str
    """Its dotted name: `train.steps`, `sample.sampler`, `sample.sampler.eta`."""
    type: Any
    """Its type annotation; str for one that chooses a row."""
    default: Any
    """Its value; None for an option that the chosen row does not take."""
    doc: Callable[[], str]
    """What it means; read from the source when asked for."""
    rows: tuple[str, ...] = ()
    """The rows it chooses from, if it does."""
    section: str = ""
    """What the section is about; empty for settings outside any section."""


def settings(config: Any) -> list[Setting]:
    """Returns the settings of a config, of one section, or of any other dataclass of settings.

    A choice gives one setting for its row, and one for each option that any row of its table takes.
    Several choices by name also give one that replaces them all, by words.
    """
    return list(_settings(config, "", ""))


def _settings(config: Any, prefix: str, section: str) -> Iterable[Setting]:
    cls = type(config)
    hints, choices = typing.get_type_hints(cls), choice_fields(cls)
    for item in dataclasses.fields(cls):
        # A field named after a keyword ends in an underscore: `from_`.
        dotted, value = f"{prefix}{item.name.rstrip('_')}", getattr(config, item.name)
        doc = functools.partial(_doc, cls, item.name)
        if item.name in choices:
            if isinstance(choices[item.name], ChoicesField):
                hint = tuple[str, ...] | None
                yield Setting(dotted, hint, None, doc, section=section)
            for name, (field, choice) in choices[item.name].rows(dotted, value).items():
                yield from _choice_settings(field, name, choice, doc, section)
        elif dataclasses.is_dataclass(value):
            yield from _settings(value, f"{dotted}.", (inspect.getdoc(type(value)) or "").strip())
        else:
            yield Setting(dotted, hints[item.name], value, doc, section=section)


def _choice_settings(
    field: ChoiceField, dotted: str, value: Choice, doc: Callable[[], str], section: str
) -> Iterable[Setting]:
    yield Setting(dotted, str, value.name, doc, tuple(field.table), section)
    yield from option_settings(field.table, dotted, value, section)


def option_settings(
    table: typing.Mapping[str, Any],
    prefix: str = "",
    value: Choice | None = None,
    section: str = "",
) -> Iterable[Setting]:
    """Yields a setting for each option that any row of a table takes, under `prefix`."""
    field = ChoiceField(prefix, table, "")
    for name, (option, rows) in field.options().items():
        default = None if value is None else value.options.get(name)
        hint = option.type if default is not None else option.type | None
        dotted = f"{prefix}.{name}".lstrip(".")
        doc = functools.partial(_doc_of_option, table, option, rows, value is None)
        yield Setting(dotted, hint, default, doc, section=section)


def _doc_of_option(
    table: typing.Mapping[str, Any], option: Option, rows: list[str], with_defaults: bool
) -> str:
    """Returns an option's text with the rows that take it, and the defaults that they have."""
    known = {row: defaults_of(table[row]).get(option.name) for row in rows}
    own = [f"{value} of {row}" for row, value in known.items() if value is not None]
    if len(own) == len(rows) and len(set(map(repr, known.values()))) == 1:
        own = [str(known[rows[0]])]
    left_out = f"; if left out, {', '.join(own)}" if own and with_defaults else ""
    return f"{option.doc} Of {', '.join(rows)}{left_out}.".strip()


def canonical(name: str, known: Iterable[str], dashes: str = "") -> str:
    """Returns the whole dotted name of a setting among the known ones.

    An option of a row may leave out the setting that chooses the row: `sample.eta` stands for
    `sample.sampler.eta`. Raises UserError, with the name it has now or the nearest one, for an
    unknown name, and for one that could stand for several. `dashes` go before every name in it.
    """
    known = list(known)
    if name in known:
        return name
    section, _, option = name.rpartition(".")
    meant = [each for each in known if _short(each, known) == (section, option)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        hint = f": it could be {' or '.join(dashes + each for each in meant)}"
    elif name in RENAMED:
        hint = f": it is now {dashes}{RENAMED[name]}"
    else:
        hint = nearest(dashes + name, [dashes + each for each in known])
    raise UserError(f"unknown setting {dashes}{name}{hint}")


def _short(name: str, known: list[str]) -> tuple[str, str] | None:
    """Returns the section and the option's name of a row's option; None for other settings."""
    choice, _, option = name.rpartition(".")
    return (choice.rpartition(".")[0], option) if choice in known else None


def _doc(cls: type, name: str) -> str:
    """Returns the string below a field, in the class that defines it."""
    for base in cls.__mro__:
        texts = _docs(base.__module__).get(base.__name__, {})
        if name in texts:
            return " ".join(texts[name].split())
    return ""


@functools.cache
def _docs(module: str) -> dict[str, dict[str, str]]:
    """Returns the strings below the fields of each class of a module."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # Without its source a class has no texts.
        return {}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {cls.name: dict(_field_docs(cls.body)) for cls in classes}


def _field_docs(body: list[ast.stmt]) -> Iterable[tuple[str, str]]:
    for field, below in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            yield field.target.id, below.value.value
