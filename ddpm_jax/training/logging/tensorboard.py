"""TensorBoard's event files, written in the caller's thread.

tensorboardX's own SummaryWriter passes its events to a thread. If the disk is full, that thread
dies, and the tenth event after it waits forever. Here the caller gets the error and goes on.
"""

import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from ddpm_jax.training.logging.logger import LogContext, Logger

_FLUSH_SECONDS = 30.0


class TensorBoard(Logger):
    """Curves of the rows, and pictures; one event file at a time in the folder `tensorboard`."""

    def __init__(self, context: LogContext):
        self._folder = context.folder / "tensorboard"
        self._file: Any = None
        self._opened, self._flushed = 0, 0.0
        self._purge: int | None = None

    def rewind(self, step: int) -> None:
        """Hides what earlier files have after `step`; all of it for step 0."""
        self._drop()
        self._purge = step + 1 if step else 0

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each named curve; a value that is not finite leaves a gap."""
        from tensorboardX.summary import scalar

        for name, value in values.items():
            if math.isfinite(value):
                self._add(step, summary=scalar(name, value))
        if self._file is not None and time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        from tensorboardX.summary import image

        self._add(step, summary=image(name, pixels, dataformats="HWC"))
        self.flush()

    def close(self) -> None:
        """Writes what is buffered; it is lost if the disk is still full."""
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
                # Two files of the same second need different names.
                suffix = f".{os.getpid()}.{self._opened}"
                self._file = EventsWriter(str(self._folder / "events"), suffix)
                if self._purge is not None:
                    start = SessionLog(status=SessionLog.START)
                    self._write(Event(step=self._purge, session_log=start))
                    self._file.flush()
                    # Said once: a later file would hide the points of this one.
                    self._purge = None
            self._write(Event(step=step, **content))
        except OSError:
            self._drop()
            raise

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)

    def flush(self) -> None:
        self._flushed = time.monotonic()
        try:
            if self._file is not None:
                self._file.flush()
        except OSError:
            self._drop()
            raise

    def _drop(self) -> None:
        # TensorBoard stops reading a file at half a record, so the next record needs a new file.
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None
