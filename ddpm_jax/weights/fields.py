"""Another project's JSON of settings, read so that no field is passed over in silence."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.config.values import typed
from ddpm_jax.errors import UserError, shown
from ddpm_jax.files import reason

_MOST_BYTES = 2**20


class Fields:
    """The fields of one JSON object; `done` refuses those that nobody took."""

    def __init__(self, path: Path, renamed: Mapping[str, str] = {}):
        """Reads a file; `renamed` has today's names of fields by their older ones.

        Raises UserError for a file that is no small JSON object, and for two names of one field
        with different values.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise UserError(f"{path} can't be read ({reason(error)})") from None
        try:
            if len(data) > _MOST_BYTES:
                raise ValueError
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise UserError(f"{path} is not a JSON object of at most 1 MB") from None
        if not isinstance(found, dict):
            raise UserError(f"{path} is not a JSON object of at most 1 MB")
        self._left: dict[str, Any] = {}
        for name, value in found.items():
            new = renamed.get(name, name)
            if new in self._left and self._left[new] != value:
                raise self.error(name, value, f"{self._left[new]!r} like {new}, its newer name")
            self._left[new] = value

    def take(self, name: str, default: Any, hint: Any) -> Any:
        """Returns a field of a type; `default` where it is missing."""
        value = self._left.pop(name, default)
        return typed(hint, value, f"{self.path}: {name}")

    def only(self, name: str, default: Any, *allowed: Any) -> Any:
        """Takes a field that may have few values only; `default` is what its absence means."""
        value = self._left.pop(name, default)
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise self.error(name, value, f"{' or '.join(map(repr, allowed))} for this network")
        return value

    def ignore(self, *names: str) -> None:
        """Takes fields that change nothing."""
        for name in names:
            self._left.pop(name, None)

    def done(self) -> None:
        """Raises UserError for the first field that was not taken."""
        for name, value in self._left.items():
            if not name.startswith("_"):
                raise UserError(
                    f"{self.path}: {name} is {shown(value)}; there is nothing here that it sets"
                )

    def error(self, name: str, value: Any, need: str) -> UserError:
        """Returns the error about a value, with what it must be."""
        return UserError(f"{self.path}: {name} is {shown(value)}; it must be {need}")
