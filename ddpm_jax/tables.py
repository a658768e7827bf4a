"""Tables of rows by name, the options that a row takes, and how both are looked up.

A row is a callable whose keyword-only parameters are its options. Only the row's signature states
their names, types and defaults:

    def ddim(schedule, *, eta: float = 0.0) -> Sampler: ...

The annotation may hold a help text: `eta: Annotated[float, "0 for no noise"]`.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

from ddpm_jax.errors import nearest

TableRow = TypeVar("TableRow")
Made = TypeVar("Made")


class Choice:
    """The name of a table's row together with its options: `Choice("ddim", eta=0.5)`.

    Immutable and hashable. The row's own signature says which options there are, and a config fills
    in the defaults of those that are left out.
    """

    __slots__ = ("name", "options")

    name: str
    options: Mapping[str, Any]

    def __init__(self, name: str, /, **options: Any):
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

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings can't be pickled or copied.
        return _choice, (self.name, dict(self.options))


def _choice(name: str, options: dict[str, Any]) -> Choice:
    return Choice(name, **options)


class Choices(Mapping[str, Choice]):
    """Several choices of one table, each under a name of its own; immutable and hashable."""

    __slots__ = ("_choices",)

    def __init__(self, choices: Mapping[str, Choice]):
        self._choices = dict(choices)

    def __getitem__(self, name: str) -> Choice:
        return self._choices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __hash__(self) -> int:
        return hash(frozenset(self._choices.items()))

    def __repr__(self) -> str:
        return repr(self._choices)


class Option(NamedTuple):
    """One option of a row."""

    name: str
    type: Any
    """Its annotation; the type of its default where it has none."""
    default: Any
    """`inspect.Parameter.empty` for an option that must be given."""
    doc: str
    """The text in its annotation, if there is one."""


def choose(kind: str, table: Mapping[str, TableRow], name: str) -> TableRow:
    """Returns `table[name]`; raises ValueError with the nearest and all known names otherwise."""
    if name not in table:
        known = ", ".join(table)
        raise ValueError(f"unknown {kind} {name!r}{nearest(name, list(table))}: known are {known}")
    return table[name]


def signature_of(row: Any) -> Mapping[str, Option]:
    """Returns the options of a row: its keyword-only parameters; none for a row without calls."""
    if not callable(row):
        return {}
    # Each config asks for those of all its rows several times.
    return _options_of(row) if isinstance(row, Hashable) else _options_of.__wrapped__(row)


@functools.lru_cache(1_000)
def _options_of(row: Callable[..., Any]) -> Mapping[str, Option]:
    found = {}
    for p in inspect.signature(row, eval_str=True).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            hint, doc = p.annotation, ""
            if typing.get_origin(hint) is Annotated:
                hint, *notes = typing.get_args(hint)
                doc = next((note for note in notes if isinstance(note, str)), "")
            if hint is p.empty:
                hint = Any if p.default in (p.empty, None) else type(p.default)
            found[p.name] = Option(p.name, hint, p.default, doc)
    return MappingProxyType(found)


def options_of(row: Any) -> list[str]:
    """Returns the names of the options that a row takes."""
    return list(signature_of(row))


def defaults_of(row: Any) -> dict[str, Any]:
    """Returns the default of each option that a row takes and that has one."""
    options = signature_of(row).values()
    return {o.name: o.default for o in options if o.default is not inspect.Parameter.empty}


def require_options(owner: str, given: Iterable[str], known: list[str]) -> None:
    """Raises ValueError for the first given option that is not among the known ones."""
    for option in given:
        if option not in known:
            takes = ", ".join(known) if known else "no options"
            hint = nearest(option, known)
            raise ValueError(f"{owner} takes no {option!r}{hint}: it takes {takes}")


def row_with(
    kind: str, table: Mapping[str, Callable[..., Made]], name: str, options: Iterable[str]
) -> Callable[..., Made]:
    """Returns `table[name]`; raises ValueError for an unknown name, or an option it lacks."""
    row = choose(kind, table, name)
    require_options(f"{kind} {name!r}", options, options_of(row))
    return row
