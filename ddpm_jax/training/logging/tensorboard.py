"""TensorBoard's event files, written where the caller stands.

tensorboardX's own SummaryWriter hands its events to a thread. Where the disk is full that thread
dies, and the tenth event after it waits for ever: here the caller gets the error, and goes on.
"""

import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

_FLUSH_SECONDS = 30.0


class Board:
    """One event file at a time in `folder`; each method raises OSError if it can't be written."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._file: Any = None
        self._opened, self._flushed = 0, 0.0
        self._purge: int | None = None

    def purge(self, step: int) -> None:
        """Hides what earlier files say of `step` and later ones."""
        self._drop()
        self._purge = step

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each named curve; what is not finite leaves a gap."""
        from tensorboardX.summary import scalar

        for name, value in values.items():
            if math.isfinite(value):
                self._add(step, summary=scalar(name, value))
        if self._file is not None and time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds a picture, uint8 `[H, W, 3]`."""
        from tensorboardX.summary import image

        self._add(step, summary=image(name, pixels, dataformats="HWC"))
        self.flush()

    def close(self) -> None:
        """Writes what is held back; a disk that is still full loses it."""
        with suppress(OSError):
            self.flush()
        self._drop()

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore

        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._opened += 1
                # A name of its own: two files of one second must not be one.
                suffix = f".{os.getpid()}.{self._opened}"
                self._file = EventsWriter(str(self._folder / "events"), suffix)
                if self._purge is not None:
                    start = SessionLog(status=SessionLog.START)
                    self._write(Event(step=self._purge, session_log=start))
            self._write(Event(step=step, **content))
        except OSError:
            self._drop()
            raise

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)

    def flush(self) -> None:
        """Hands what is held back to the system."""
        self._flushed = time.monotonic()
        try:
            if self._file is not None:
                self._file.flush()
        except OSError:
            self._drop()
            raise

    def _drop(self) -> None:
        # Half a record ends what TensorBoard reads of a file: what follows goes into a new one.
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None
