"""metrics.jsonl and events.jsonl: files of JSON rows that grow by whole rows."""

import codecs
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
        self._lines = JsonLines(context.folder / METRICS, context.report)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        self._lines.add({"step": step, **values})

    def rewind(self, step: int) -> None:
        self._lines.keep(lambda row: row["step"] <= step)

    def close(self) -> None:
        self._lines.close()


class EventsFile(Logger):
    """events.jsonl: one row for each event; it only loses lines that can't be read."""

    def __init__(self, context: LogContext):
        self._lines = JsonLines(context.folder / EVENTS, context.report)

    def event(self, step: int, name: str, details: Mapping[str, Any]) -> None:
        self._lines.add({"step": step, "event": name, **details})

    def rewind(self, step: int) -> None:
        self._lines.keep(lambda row: True)

    def close(self) -> None:
        self._lines.close()


class JsonLines:
    """A file to which whole rows are appended; it is opened for the first row."""

    def __init__(self, path: Path, report: Callable[[str], None]):
        """`report` gets a line when `keep` takes out lines that can't be read."""
        self._path, self._report = path, report
        self._waiting: list[dict[str, Any]] = []
        self._file: Any = None

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row; if the disk is full, raises OSError and writes it with the next row."""
        self._waiting.append(row)
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
            self.close()  # The folder was removed, and nobody would find what is written here.
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened(self._path)
        end = self._file.seek(0, 2)
        text = b"".join(json.dumps(each).encode() + b"\n" for each in self._waiting)
        try:
            _write(self._file, text)
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)  # Half a row would spoil the next one.
            raise
        self._waiting.clear()

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Takes out the unwanted rows, and the lines that can't be read, which are reported.

        Raises OSError or UserError if the file can't be read or written.
        """
        self.close()
        self._waiting = [row for row in self._waiting if wanted(row)]
        lines = _lines(self._path)
        kept = [text for text, row in lines if row is not None and wanted(row)]
        if len(kept) < len(lines):
            with replacing(self._path) as beside:
                beside.write_bytes(b"".join(text + b"\n" for text in kept))
        bad = [number for number, (_, row) in enumerate(lines, 1) if row is None]
        if bad:
            which = f"line {bad[0]} can't be read and is"
            if len(bad) > 1:
                which = f"{len(bad)} lines, from {bad[0]} on, can't be read and are"
            self._report(f"{self._path}: {which} left out; the others are kept")

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


def _opened(path: Path) -> Any:
    """Opens a file to append whole lines; ends the line that a kill or a power cut left half."""
    file = path.open("a+b", buffering=0)
    try:
        if file.seek(0, 2):
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                _write(file, b"\n")
    except OSError:
        file.close()
        raise
    return file


def _write(file: Any, text: bytes) -> None:
    if file.write(text) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_rows(path: StoragePath) -> list[dict[str, Any]]:
    """Returns the rows of such a file, without the lines that can't be read."""
    return [row for _, row in _lines(path) if row is not None]


def _lines(path: StoragePath) -> list[tuple[bytes, dict[str, Any] | None]]:
    """Returns the text and the row of each line; None for a line that is damaged."""
    if not path.is_file():
        return []
    # Lost power leaves blocks of NULs, and some editors a byte order mark and \r before each \n.
    texts = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    stripped = (text.strip(b"\0 \t\r") for text in texts if text.strip())
    return [(text, _row(text)) for text in stripped]


def _row(text: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    good = isinstance(row, dict) and type(row.get("step")) is int
    return row if good else None


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
