"""The logger of a run: it passes everything on to the rows of LOGGERS that the run uses.

To add one, write a function of a LogContext that returns a Logger, and name its row in
`train.loggers`. If the disk is full, the folder is gone or the bucket can't be reached, the run
prints a warning and goes on.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.files import Spool, StoragePath
from ddpm_jax.tables import choose
from ddpm_jax.training.logging.json_lines import (
    EVENTS,
    METRICS,
    EventsFile,
    MetricsFile,
    read_events,
    read_rows,
)
from ddpm_jax.training.logging.logger import LogContext, Logger
from ddpm_jax.training.logging.progress import Progress
from ddpm_jax.training.logging.tensorboard import TensorBoard
from ddpm_jax.training.logging.wandb import WandB

LOGGERS: dict[str, Callable[[LogContext], Logger]] = {
    METRICS: MetricsFile,
    EVENTS: EventsFile,
    "progress": Progress,
    "tensorboard": TensorBoard,
    "wandb": WandB,
}
# A resume reads these two files, so every run has them.
_ALWAYS = (METRICS, EVENTS)
CHOSEN = tuple(name for name in LOGGERS if name not in (*_ALWAYS, "progress"))
"""The rows that `train.loggers` may name."""


class RunLogger:
    """Logs on process 0; on the other processes of a pod it writes and reports nothing."""

    def __init__(
        self,
        run: StoragePath,
        *,
        start: int,
        total: int,
        loggers: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        report: Callable[[str], None] | None = None,
        silent: bool = False,
    ):
        """Opens the named rows of LOGGERS, and takes back what they hold beyond step `start`.

        `report` gets a line for each row and each warning; None reports nothing. Raises ValueError
        for an unknown logger, and UserError for one that can't be used here.
        """
        self._run, self._report = run, None if silent else report
        self._loggers: dict[str, Logger] = {}
        self._spool = None
        self._failing: set[str] = set()
        if silent:
            return
        self._spool = Spool(run, _ALWAYS, self.say)
        address = str(run.resolve() if isinstance(run, Path) else run)
        context = LogContext(
            self._spool.folder, run.name, total, settings or {}, report or self.say, address
        )
        if report is not None:
            loggers = ("progress", *loggers)
        try:
            for name in dict.fromkeys((*_ALWAYS, *loggers)):
                self._loggers[name] = choose("logger", LOGGERS, name)(context)
                self._loggers[name].rewind(start)
        except BaseException:
            self.close()
            raise
        self.event(start, "start")

    def say(self, line: str) -> None:
        """Reports a line, if the caller asked for reports."""
        if self._report is not None:
            self._report(line)

    def advance(self, step: int) -> None:
        """Shows that the run has reached `step`."""
        self._each("advance", step)

    def rewind(self, step: int) -> None:
        """Takes back the rows after `step`: the run goes on from there with other batches."""
        self._each("rewind", step)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one row of numbers, which may be non-finite."""
        self._each("row", step, values)

    def event(self, step: int, name: str, **details: Any) -> None:
        """Logs an event: a start, changed settings, non-finite steps, a rollback."""
        self._each("event", step, name, details)

    def picture(self, step: int, name: str, path: StoragePath) -> None:
        """Logs a picture that was written to `path`."""
        if self._loggers:
            pixels = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
            self._each("picture", step, name, pixels)

    def flush(self) -> None:
        """Hands what is buffered to the operating system, so that `put` finds it."""
        self._each("flush")

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the run so far; none if this logger is silent."""
        return read_rows(self._spool.folder / METRICS) if self._spool else []

    def events(self) -> list[dict[str, Any]]:
        """Returns the events of the run so far; none if this logger is silent."""
        return read_events(self._spool.folder / EVENTS) if self._spool else []

    def put(self) -> None:
        """Copies everything into the bucket, if the run is in one; any thread may call it."""
        if self._spool is not None:
            self._spool.upload()

    def _each(self, method: str, *words: Any) -> None:
        for name, logger in self._loggers.items():
            if getattr(type(logger), method) is getattr(Logger, method):
                continue  # A call that a logger ignores does not show that it can write again.
            try:
                getattr(logger, method)(*words)
                self._failing.discard(name)
            except (OSError, UserError) as error:
                if name not in self._failing:
                    reason = getattr(error, "strerror", None) or str(error)
                    self.say(f"{self._run / name} can't be written ({reason}); training goes on")
                self._failing.add(name)

    def close(self) -> None:
        """Closes all loggers and their files."""
        for logger in self._loggers.values():
            logger.close()
        if self._spool is not None:
            self._spool.close()
