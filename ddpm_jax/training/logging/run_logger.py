"""What a run tells while it trains: the bar, metrics.jsonl, events.jsonl and TensorBoard.

A disk that is full, a folder that is gone or a bucket that can't be reached costs a line of warning
and never the run: rows are kept until there is room for them.
"""

import errno
import io
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ddpm_jax.errors import UserError
from ddpm_jax.files import Spool, StoragePath, replacing
from ddpm_jax.training.logging.tensorboard import Board


class RunLogger:
    """Process 0's voice; on the other processes of a pod it is silent and writes nothing."""

    def __init__(self, run: StoragePath, *, start: int, total: int, silent: bool = False):
        """`start` is the step a run goes on from: what was written beyond it is taken back."""
        self._silent, self._run = silent, run
        self._rows = self._events = self._board = self._bar = self._spool = None
        self._total, self._start, self._begun = total, start, None
        self._complained: set[str] = set()
        if silent:
            return
        self._spool = Spool(run, ("metrics.jsonl", "events.jsonl"), self.say)
        self._rows = _Lines(self._spool.folder / "metrics.jsonl")
        self._events = _Lines(self._spool.folder / "events.jsonl")
        self._board = Board(self._spool.folder / "tensorboard")
        self._board.purge(start + 1 if start else 0)
        self._rows.keep(lambda row: row["step"] <= start)
        self.event(start, "start")
        # Piped into a file, a bar is noise: plain lines at each row instead.
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1
            )

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if not self._silent:
            with suppress(OSError):  # Into a file, on a disk that is full.
                tqdm.write(line, file=sys.stderr)

    def advance(self, steps: int) -> None:
        """Moves the bar, and begins the clock: what is left is told by the steps alone."""
        if self._begun is None:
            self._begun, self._start = time.monotonic(), self._start + steps
        if self._bar is not None:
            self._bar.update(steps)

    def rewind(self, step: int) -> None:
        """Takes the rows beyond a step back: the run goes on from there, on another way."""
        self._begun, self._start = None, step
        if self._bar is not None:
            self._bar.n = self._bar.initial = step
            self._bar.refresh()
        if self._rows is not None and self._board is not None:
            rows = self._rows
            self._board.purge(step + 1)
            self._try("metrics.jsonl", lambda: rows.keep(lambda row: row["step"] <= step))

    def row(self, step: int, values: dict[str, float]) -> None:
        """Writes one row of finite or non-finite numbers, everywhere at once."""
        if self._rows is None or self._board is None:
            return
        rows, board = self._rows, self._board
        self._try("metrics.jsonl", lambda: rows.add({"step": step, **values}))
        self._try("tensorboard", lambda: board.scalars(step, values))
        shown = {
            "loss": f"{values['loss']:.4f}",
            "grad": f"{values['grad_norm']:.2f}",
            "img/s": f"{values['images_per_s']:,.0f}",
        }
        if self._bar is not None:
            self._bar.set_postfix(shown)
        else:
            spent = time.monotonic() - (self._begun or time.monotonic())
            left = spent / max(1, step - self._start) * (self._total - step)
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            self.say(f"step {step:,} of {self._total:,}  {text}  {_clock(left)} left")

    def event(self, step: int, name: str, **details: Any) -> None:
        """Adds to events.jsonl, which only ever grows: starts, changed settings, bad steps."""
        if self._events is not None:
            events = self._events
            row = {"step": step, "event": name, **details}
            self._try("events.jsonl", lambda: events.add(row))

    def picture(self, step: int, name: str, path: StoragePath) -> None:
        """Shows a picture that was written to `path` in TensorBoard."""
        if self._board is not None:
            board, picture = self._board, Image.open(io.BytesIO(path.read_bytes()))
            pixels = np.asarray(picture.convert("RGB"))
            self._try("tensorboard", lambda: board.picture(step, name, pixels))

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows that the run has so far; none where it is silent."""
        return read_rows(self._spool.folder / "metrics.jsonl") if self._spool else []

    def events(self) -> list[dict[str, Any]]:
        """Returns the events on the run's way so far; none where it is silent."""
        return read_events(self._spool.folder / "events.jsonl") if self._spool else []

    def flush(self) -> None:
        """Hands what is held back to the system; `put` then finds it."""
        if self._board is not None:
            self._try("tensorboard", self._board.flush)

    def put(self) -> None:
        """Puts everything into the bucket, if the run lies in one; for another thread to call."""
        if self._spool is not None:
            self._spool.upload()

    def _try(self, what: str, write: Callable[[], None]) -> None:
        try:
            write()
            self._complained.discard(what)
        except (OSError, UserError) as error:
            if what not in self._complained:
                reason = getattr(error, "strerror", None) or str(error)
                self.say(f"{self._run / what} can't be written ({reason}); training goes on")
            self._complained.add(what)

    def close(self) -> None:
        """Ends the bar and the files."""
        for part in (self._bar, self._rows, self._events, self._board, self._spool):
            if part is not None:
                part.close()


class _Lines:
    """A file of JSON rows that is added to, a whole row or nothing; opened with the first row."""

    def __init__(self, path: Path):
        self._path = path
        self._waiting: list[bytes] = []
        self._file: Any = None

    def add(self, row: dict[str, Any]) -> None:
        """Raises OSError where the disk is full; the row is then written before the next one."""
        self._waiting.append((json.dumps(row) + "\n").encode())
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
            self.close()  # The folder was removed; what is written here, nobody would find.
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
    """Returns the rows of a metrics.jsonl; a last line that a kill cut off is left out."""
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
    """Returns the events of an events.jsonl that lie on the way of the run's last start.

    What happened beyond the step that a later start went back to has not happened to it.
    """
    way: list[dict[str, Any]] = []
    for row in read_rows(path):
        if row.get("event") == "start":
            way = [earlier for earlier in way if earlier["step"] <= row["step"]]
        way.append(row)
    return way


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
