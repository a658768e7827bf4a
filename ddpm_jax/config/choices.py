"""Settings that choose a row of a table, together with the row's options."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ddpm_jax.config.checks import require_row
from ddpm_jax.config.values import typed
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.tables import Choice, Option, defaults_of, signature_of


class ChoiceField:
    """A dataclass field that holds a `Choice` of one table, complete and checked whenever set.

    Built from a Choice, or from a row's name alone: `SampleConfig(sampler="ddim")`. The table is
    named here and nowhere else: checks, JSON, flags and help read it from the field.
    """

    def __init__(
        self,
        dotted: str,
        table: Mapping[str, Any],
        default: Choice | str,
        make: Callable[..., Any] = lambda name, **options: None,
    ):
        """`dotted` is the setting's whole name, for messages: "sample.sampler".

        `make(name, **options)` makes the row, so that it checks its options: whatever ValueError it
        raises becomes a UserError with the option's dotted name.
        """
        self.dotted, self.table, self._default, self._make = dotted, table, default, make
        self._name = dotted.rpartition(".")[2]

    def __get__(self, instance: Any, owner: type) -> Choice:
        # Without an instance, dataclasses ask for the field's default.
        return self.complete(self._default) if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: Any, value: Choice | str) -> None:
        choice = self.complete(value)
        with naming(self.dotted, choice):
            self._make(choice.name, **choice.options)
        instance.__dict__[self._name] = choice

    def row(self, section: Any) -> Any:
        """Returns the row of the table that a section's choice names."""
        return self.table[self.__get__(section, type(section)).name]

    def complete(self, value: Choice | str) -> Choice:
        """Returns the choice with the row's defaults for the options that are left out.

        Raises UserError for an unknown row or option, an option of another type, and a missing one.
        """
        choice = Choice(value) if isinstance(value, str) else value
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

    def _not_taken(self, name: str, option: str, value: Any, known: Mapping[str, Option]) -> str:
        hint = nearest(option, list(known))
        takers = [row for row in self.table if option in signature_of(self.table[row])]
        if takers:
            hint = f" ({', '.join(takers)} {'has' if len(takers) == 1 else 'have'} it)"
        need = f"left out for {name}, which has none{hint}"
        return f"{self.dotted}.{option} is {value!r}; it must be {need}"

    def read(self, plain: Any) -> Choice:
        """Returns the choice that JSON holds: a row's name, or a table with `name` and options."""
        if isinstance(plain, dict):
            if not isinstance(plain.get("name"), str):
                raise UserError(f"{self.dotted} is {plain!r}; it must have the name of a row")
            options = {name: value for name, value in plain.items() if name != "name"}
            plain = Choice(plain["name"], **options)
        return self.complete(plain)

    def changed(self, old: Choice, new: Any) -> dict[str, Any]:
        """Returns the new choice in its JSON form.

        If only a name is given, the old options that the new row also takes are kept. Raises
        UserError for an unknown row.
        """
        if isinstance(new, str):
            require_row(self.dotted, new, self.table)
            kept = signature_of(self.table[new])
            options = {name: value for name, value in old.options.items() if name in kept}
            return {"name": new, **options}
        choice = self.read(new)
        return {"name": choice.name, **choice.options}

    def options(self) -> dict[str, tuple[Option, list[str]]]:
        """Returns every option that a row of the table takes, and the names of those rows."""
        found: dict[str, tuple[Option, list[str]]] = {}
        for row in self.table:
            for option in signature_of(self.table[row]).values():
                found.setdefault(option.name, (option, []))[1].append(row)
        return found


def choice_fields(section: Any) -> dict[str, ChoiceField]:
    """Returns the fields of a section, or of its class, that hold a choice."""
    cls = section if isinstance(section, type) else type(section)
    found = {
        item.name: inspect.getattr_static(cls, item.name, None) for item in dataclasses.fields(cls)
    }
    return {name: each for name, each in found.items() if isinstance(each, ChoiceField)}


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
