"""The contract of a logger: it receives everything that a run records, and keeps what it wants."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class LogContext(NamedTuple):
    """What a row of LOGGERS is made from."""

    folder: Path
    """The local folder to write in; a run in a bucket copies it there now and then."""
    run: str
    """The run folder's name."""
    total: int
    """The step at which the run ends."""
    settings: Mapping[str, Any]
    """Every setting of the config under its dotted name."""
    report: Callable[[str], None]
    """Shows a line to whoever started the run."""
    address: str
    """Where the run folder is: an absolute path, or one in a bucket."""


class Logger:
    """Ignores everything; a logger overrides what it keeps.

    Each method may raise OSError or UserError if it can't write. The run then prints a warning and
    goes on. If possible, a logger should write the rows that it missed together with the next one.
    """

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Keeps the metrics up to `step`; their values may be non-finite."""

    def event(self, step: int, name: str, details: Mapping[str, Any]) -> None:
        """Keeps an event: a start, changed settings, non-finite steps, a rollback."""

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Keeps a picture, uint8 `[H, W, 3]`."""

    def advance(self, step: int) -> None:
        """Shows that the run has reached `step`; fast, since every dispatch calls it."""

    def rewind(self, step: int) -> None:
        """Takes back the rows after `step`: the run starts, or goes on, from there."""

    def flush(self) -> None:
        """Hands what is buffered to the operating system."""

    def close(self) -> None:
        """Ends the logger; it must not raise for a full disk."""
