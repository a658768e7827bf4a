"""Signals as requests to stop: all processes of a run save at the same step and end.

Training installs no signal handler. The program that owns the process passes this one to it.
"""

import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType

from ddpm_jax.runtime.distributed import StopAgreement, is_alone


class PreemptionHandler:
    """Within its `with` block, turns SIGTERM and the first SIGINT into a request to stop.

    The training loop stops after its current dispatch. If one process of several gets a signal, all
    stop, so each of them must use a handler.
    """

    def __init__(self, report: Callable[[str], None]):
        """`report` is called with a line, in a thread of its own, when a request arrives."""
        self.signal: int | None = None
        """The signal that arrived here, or on another process."""
        self._report = report
        # A signal may interrupt a thread while it prints, and that thread can't print again then.
        # Putting into this queue always works.
        self._requests: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._reporter = threading.Thread(target=self._report_requests, daemon=True)
        self._agreement = None if is_alone() else StopAgreement(self._accept)

    def reached(self) -> bool:
        """Returns whether to save and end now; every process asks at the same points."""
        if self._agreement is None:
            return self.signal is not None
        return self._agreement.reached_stop_point()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            # The next one ends the process: Python's own would wait for a compilation to end.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._agreement is None:
            self._accept(number)
        else:
            self._agreement.request(number)

    def _accept(self, number: int) -> None:
        self.signal = number
        self._requests.put(number)

    def _report_requests(self) -> None:
        while (number := self._requests.get()) is not None:
            hint = "; once more ends at once, without saving" if number == signal.SIGINT else ""
            self._report(f"saving after this step{hint}")

    def __enter__(self) -> "PreemptionHandler":
        self._reporter.start()
        self._old = {n: signal.signal(n, self._handle) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._requests.put(None)
        self._reporter.join()
