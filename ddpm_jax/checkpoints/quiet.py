"""Orbax's hundred lines about a save that failed, of which the run tells in one."""

import logging
import sys
import warnings
from typing import Any


class Quiet:
    """While it lasts, what Orbax and TensorStore print of a failed write is left out.

    Their error still reaches the caller as an exception; nobody else's messages are touched.
    """

    def __init__(self):
        # Orbax logs with absl; asyncio logs the writes that Orbax no longer waits for.
        self._loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
        for logger in self._loggers:
            logger.addFilter(_wanted)
        # TensorStore answers writes whose caller has given up by then: a traceback for each.
        self._hook = sys.unraisablehook
        self._own = self._tell
        self._stays = False
        sys.unraisablehook = self._own
        # And Orbax leaves writes that it never began; who else has coroutines here?
        warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
        self._filter = warnings.filters[0]

    def _tell(self, what: Any) -> None:
        late = isinstance(what.exc_value, RuntimeError) and what.object is None
        if not (late and str(what.exc_value) == "Event loop is closed"):
            self._hook(what)

    def stay(self) -> None:
        """Makes `close` do nothing: the last words on a failed write come when Python ends."""
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
    said = record.getMessage()  # On a disk the path has Orbax's name in it, in a bucket it has not.
    return "orbax" not in record.pathname and "orbax" not in said and "tensorstore" not in said
