"""Suppresses the hundred lines that Orbax prints about a failed save; the run reports it in one."""

import logging
import sys
import warnings
from typing import Any


class Quiet:
    """Until `close`, suppresses what Orbax and TensorStore print about a failed write.

    Their error still reaches the caller as an exception. Other messages are not affected.
    """

    def __init__(self):
        # Orbax logs with absl; asyncio logs the writes that Orbax no longer waits for.
        self._loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
        for logger in self._loggers:
            logger.addFilter(_wanted)
        # TensorStore answers each write whose caller has given up with a traceback.
        self._hook = sys.unraisablehook
        self._own = self._filter_unraisable
        self._stays = False
        sys.unraisablehook = self._own
        # Orbax also leaves coroutines that it never began; no one else uses coroutines here.
        warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
        self._filter = warnings.filters[0]

    def _filter_unraisable(self, what: Any) -> None:
        late = isinstance(what.exc_value, RuntimeError) and what.object is None
        if not (late and str(what.exc_value) == "Event loop is closed"):
            self._hook(what)

    def stay(self) -> None:
        """Makes `close` do nothing: some messages about a failed write come when Python ends."""
        self._stays = True

    def close(self) -> None:
        """Restores what was there before."""
        if self._stays:
            return
        for logger in self._loggers:
            logger.removeFilter(_wanted)
        if sys.unraisablehook is self._own:
            sys.unraisablehook = self._hook
        if self._filter in warnings.filters:
            warnings.filters.remove(self._filter)  # type: ignore  # The stub says Sequence.


def _wanted(record: logging.LogRecord) -> bool:
    # On a disk Orbax's name is in the path of what it writes; in a bucket it is not.
    text = record.getMessage()
    return "orbax" not in record.pathname and "orbax" not in text and "tensorstore" not in text
