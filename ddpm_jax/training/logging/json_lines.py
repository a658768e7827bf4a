"""metrics.jsonl and events.jsonl: files of JSON rows that grow by whole rows."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddpm_jax.files import StoragePath, replacing
from ddpm_jax.training.logging.logger import LogContext, Logger

METRICS, EVENTS = "metrics.jsonl", "events.jsonl"


class MetricsFile(Logger):
    """metrics.jsonl: one row for each logged interval; rows after a rewind's step are removed."""

    def __init__(self, context: LogContext):
        self._lines = JsonLines(context.folder / METRICS)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        self._lines.add({"step": step, **values})

    def rewind(self, step: int) -> None:
        self._lines.keep(lambda row: row["step"] <= step)

    def close(self) -> None:
        self._lines.close()


class EventsFile(Logger):
    """events.jsonl: one row for each event; it only ever grows."""

    def __init__(self, context: LogContext):
        self._lines = JsonLines(context.folder / EVENTS)

    def event(self, step: int, name: str, details: Mapping[str, Any]) -> None:
        self._lines.add({"step": step, "event": name, **details})

    def close(self) -> None:
        self._lines.close()


class JsonLines:
    """A file to which whole rows are appended; it is opened for the first row."""

    def __init__(self, path: Path):
        self._path = path
        self._waiting: list[bytes] = []
        self._file: Any = None

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row; if the disk is full, raises OSError and writes it with the next row."""
        self._waiting.append((json.dumps(row) + "\n").encode())
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
            self.close()  # The folder was removed, and nobody would find what is written here.
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        end, text = self._file.seek(0, 2), b"".join(self._waiting)
        try:
            if self._file.write(text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)  # Half a row would spoil the next one.
            raise
        self._waiting.clear()

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrites the file with the wanted rows; raises OSError or UserError if it can't."""
        self.close()
        self._waiting.clear()
        kept = [json.dumps(row) + "\n" for row in read_rows(self._path) if wanted(row)]
        with replacing(self._path) as beside:
            beside.write_text("".join(kept))

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


def read_rows(path: StoragePath) -> list[dict[str, Any]]:
    """Returns the rows of such a file before the first damaged one: a kill may cut off the last."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows


def read_events(path: StoragePath) -> list[dict[str, Any]]:
    """Returns the events of an events.jsonl that belong to the run as it is now.

    If a start went back to an earlier step, the events after that step are left out.
    """
    history: list[dict[str, Any]] = []
    for row in read_rows(path):
        if row.get("event") == "start":
            history = [earlier for earlier in history if earlier["step"] <= row["step"]]
        history.append(row)
    return history
