"""Settings that choose one row of a table, or several, together with the rows' options."""

import contextlib
import dataclasses
import inspect
import re
import typing
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ddpm_jax.config.checks import require_row
from ddpm_jax.config.values import from_text, members, typed
from ddpm_jax.errors import UserError, nearest, require
from ddpm_jax.tables import Choice, Choices, Option, defaults_of, signature_of

AUTO = "auto"
"""What a field with `auto` may say instead of a row: the row follows from other settings."""


class ChoiceField:
    """A dataclass field that holds a `Choice` of one table, complete and checked whenever set.

    Built from a Choice, or from words: `SampleConfig(sampler="ddim --eta 0.5")`. The table is named
    here and nowhere else: checks, JSON, flags and help read it from the field.
    """

    def __init__(
        self,
        dotted: str,
        table: Mapping[str, Any],
        default: Choice | str,
        make: Callable[..., Any] = lambda name, **options: None,
        *,
        auto: bool = False,
    ):
        """`dotted` is the setting's whole name, for messages: "sample.sampler".

        `make(name, **options)` makes the row, so that it checks its options: whatever ValueError it
        raises becomes a UserError with the option's dotted name. With `auto` the choice may also be
        `AUTO`, which has no options and makes no row.
        """
        self.dotted, self._default, self._make = dotted, default, make
        self.table = ChainMap({AUTO: None}, table) if auto else table  # type: ignore
        self._name = dotted.rpartition(".")[2]

    def __get__(self, instance: Any, owner: type) -> Choice:
        # Without an instance, dataclasses ask for the field's default.
        return self.complete(self._default) if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: Any, value: Choice | str) -> None:
        instance.__dict__[self._name] = self.checked(value)

    def checked(self, value: Choice | str) -> Choice:
        """Returns the complete choice; raises UserError as `complete` does, and as the row does."""
        choice = self.complete(value)
        if self.table[choice.name] is not None:
            with naming(self.dotted, choice):
                self._make(choice.name, **choice.options)
        return choice

    def complete(self, value: Choice | str) -> Choice:
        """Returns the choice with the row's defaults for the options that are left out.

        Raises UserError for an unknown row or option, an option of another type, and a missing one.
        """
        choice = self._of_words(value) if isinstance(value, str) else value
        if not isinstance(choice, Choice):
            raise UserError(f"{self.dotted} is {value!r}; it must be a Choice or a row's name")
        require_row(self.dotted, choice.name, self.table)
        row = self.table[choice.name]
        known = signature_of(row)
        for option, given in choice.options.items():
            if option not in known:
                raise UserError(self._not_taken(choice.name, option, given, known))
        options = {**defaults_of(row), **choice.options}
        for option in known:
            if option not in options:
                raise UserError(f"{self.dotted}.{option} is missing: {choice.name} needs it")
            options[option] = typed(known[option].type, options[option], f"{self.dotted}.{option}")
        return Choice(choice.name, **options)

    def _of_words(self, words: str) -> Choice:
        """Returns the choice that words mean: a row's name, perhaps with options as flags."""
        name, *flags = re.split(r"\s+--", words.strip())
        known = signature_of(self.table.get(name))
        options: dict[str, Any] = {}
        for flag in flags:
            option, *texts = re.split(r"[\s=]+", flag.strip())
            option = option.replace("-", "_")
            kinds = members(known[option].type) if option in known else ()
            values = [text if str in kinds else from_text(text) for text in texts]
            alone = len(values) == 1 and not any(typing.get_origin(it) is tuple for it in kinds)
            options[option] = values[0] if alone else values
        return Choice(name, **options)

    def _not_taken(self, name: str, option: str, value: Any, known: Mapping[str, Option]) -> str:
        hint = nearest(option, list(known))
        takers = [row for row in self.table if option in signature_of(self.table[row])]
        if takers:
            hint = f" ({', '.join(takers)} {'has' if len(takers) == 1 else 'have'} it)"
        need = f"left out for {name}, which has none{hint}"
        return f"{self.dotted}.{option} is {value!r}; it must be {need}"

    def read(self, plain: Any) -> Choice:
        """Returns the choice that JSON holds: words, or a table with `name` and options."""
        if isinstance(plain, dict):
            if not isinstance(plain.get("name"), str):
                raise UserError(f"{self.dotted} is {plain!r}; it must have the name of a row")
            options = {name: value for name, value in plain.items() if name != "name"}
            plain = Choice(plain["name"], **options)
        return self.complete(plain)

    def changed(self, old: Choice, new: Any) -> dict[str, Any]:
        """Returns the new choice in its JSON form.

        If words are given, the old options that the new row also takes and that the words don't
        name are kept. Raises UserError for an unknown row.
        """
        if isinstance(new, str):
            choice = self._of_words(new)
            require_row(self.dotted, choice.name, self.table)
            kept = signature_of(self.table[choice.name])
            options = {name: value for name, value in old.options.items() if name in kept}
            return {"name": choice.name, **options, **choice.options}
        choice = self.read(new)
        return {"name": choice.name, **choice.options}

    def rows(self, dotted: str, value: Choice) -> dict[str, tuple["ChoiceField", Choice]]:
        """Returns the choice with its field by its dotted name, as `ChoicesField` does."""
        return {dotted: (self, value)}

    def options(self) -> dict[str, tuple[Option, list[str]]]:
        """Returns every option that a row of the table takes, and the names of those rows."""
        found: dict[str, tuple[Option, list[str]]] = {}
        for row in self.table:
            for option in signature_of(self.table[row]).values():
                found.setdefault(option.name, (option, []))[1].append(row)
        return found


class ChoicesField:
    """A dataclass field that holds `Choices` of one table by name, at least one.

    Built from a mapping: `TrainConfig(averages={"ema": Choice("ema", decay=0.999)})`. Options are
    settings as `train.averages.ema.decay`. In words: `ema "short=power --sigma_rel 0.05"`.
    """

    def __init__(
        self,
        dotted: str,
        table: Mapping[str, Any],
        default: Mapping[str, Choice | str],
        make: Callable[..., Any] = lambda name, **options: None,
    ):
        """`make(name, **options)` makes a row, as in ChoiceField."""
        self.dotted, self.table, self._default, self._make = dotted, table, default, make
        self._name = dotted.rpartition(".")[2]

    def __get__(self, instance: Any, owner: type) -> Choices:
        if instance is not None:
            return instance.__dict__[self._name]
        return Choices({name: self._one(name).complete(it) for name, it in self._default.items()})

    def __set__(self, instance: Any, value: Mapping[str, Choice | str]) -> None:
        self._check_names(value)
        choices = {name: self._one(name).checked(choice) for name, choice in value.items()}
        instance.__dict__[self._name] = Choices(choices)

    def read(self, plain: Any) -> Choices:
        """Returns the choices that JSON holds: a table from names to rows with options."""
        self._check_names(plain)
        return Choices({name: self._one(name).read(each) for name, each in plain.items()})

    def changed(self, old: Choices, new: Any) -> dict[str, Any]:
        """Returns new choices in their JSON form, from a table or from words.

        A name alone keeps the old choice of that name, or is the row of that name.
        """
        if isinstance(new, list | tuple):
            pairs = [str(each).partition("=") for each in new]
            names = [name for name, _, _ in pairs]
            twice = next((name for name in names if names.count(name) > 1), "")
            require(not twice, f"a name in {self.dotted}", twice, "given once")
            new = {name: row or old.get(name, name) for name, _, row in pairs}
        self._check_names(new)
        found = {name: self._one(name).read(each) for name, each in new.items()}
        return {name: {"name": choice.name, **choice.options} for name, choice in found.items()}

    def rows(self, dotted: str, value: Choices) -> dict[str, tuple[ChoiceField, Choice]]:
        """Returns each choice of a value, with its field, by its dotted name."""
        return {f"{dotted}.{name}": (self._one(name), choice) for name, choice in value.items()}

    def _one(self, name: str) -> ChoiceField:
        return ChoiceField(f"{self.dotted}.{name}", self.table, "", self._make)

    def _check_names(self, value: Any) -> None:
        need = "a table from at least one name to a row"
        require(isinstance(value, Mapping) and len(value) > 0, self.dotted, value, need)
        for name in value:
            # A name is a part of dotted names, of flags and of the names of saved arrays.
            word = isinstance(name, str) and name.isidentifier()
            require(word, f"a name in {self.dotted}", name, "a word of letters, digits and _")


def choice_fields(section: Any) -> dict[str, ChoiceField | ChoicesField]:
    """Returns the fields of a section, or of its class, that hold a choice or several."""
    cls = section if isinstance(section, type) else type(section)
    found = {
        item.name: inspect.getattr_static(cls, item.name, None) for item in dataclasses.fields(cls)
    }
    kinds = ChoiceField | ChoicesField
    return {name: each for name, each in found.items() if isinstance(each, kinds)}


def chosen(config: Any, prefix: str = "") -> dict[str, tuple[ChoiceField | ChoicesField, Any]]:
    """Returns each choice of a config, or of one section, with its field, by its dotted name."""
    found: dict[str, tuple[ChoiceField | ChoicesField, Any]] = {}
    fields = choice_fields(config)
    for item in dataclasses.fields(config):
        dotted, value = f"{prefix}{item.name}", getattr(config, item.name)
        if item.name in fields:
            found[dotted] = fields[item.name], value
            found |= fields[item.name].rows(dotted, value)
        elif dataclasses.is_dataclass(value):
            found |= chosen(value, f"{dotted}.")
    return found


def rows_of(section: Any) -> tuple[Any, ...]:
    """Returns the rows that the choices of a section name, as the tables have them now."""
    return tuple(
        field.table[getattr(section, name).name]
        for name, field in choice_fields(section).items()
        if isinstance(field, ChoiceField)
    )


@contextlib.contextmanager
def naming(dotted: str, choice: Choice) -> Iterator[None]:
    """Turns the ValueError that a row raises for its options into a UserError with dotted names.

    A row's message begins with the option's name: "eta is 2: it must lie between 0 and 1".
    """
    try:
        yield
    except ValueError as error:
        first = str(error).split(" ", 1)[0]
        where = f"{dotted}." if first in choice.options else f"{dotted} {choice.name}: "
        raise UserError(f"{where}{error}") from None
