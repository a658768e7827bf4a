"""Signals as requests to stop: all processes of a run save at the same step and end.

Training installs no signal handler. The program that owns the process passes this one to it.
"""

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ddpm_jax.runtime.distributed import StopAgreement, is_alone

# SIGHUP: the terminal was closed. The others come from schedulers: Slurm's --signal, SGE's -notify
# and LSF's run limit send SIGUSR1 or SIGUSR2, and a limit of processor time SIGXCPU.
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_WARNING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class PreemptionHandler:
    """Within its `with` block, turns signals into a request to stop.

    These are SIGTERM, the first SIGINT, and SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU where nobody else
    handles or ignores them (as `nohup` does SIGHUP). The training loop stops after its current
    dispatch. Until `begin` is called, there is nothing to save, and a signal ends the process: it
    raises KeyboardInterrupt with the signal's number. If one process of several gets a signal, all
    stop, so each of them must use a handler. Outside the main thread, no signal is handled.
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
        self._old: dict[int, Any] = {}
        # Several processes have to end together, at a point that they agree on.
        self._begun = self._agreement is not None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block, a signal ends a process at once, as by default.

        It is for a long compilation, in which Python's own handlers wait. Several processes go on.
        """
        numbers = [] if self._begun else list(self._old)
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, self._handle)

    def begin(self) -> None:
        """From here on there are steps to save: a signal is a request."""
        self._begun = True

    def reached(self) -> bool:
        """Returns whether to save and end now; every process asks at the same points."""
        if self._agreement is None:
            return self.signal is not None
        return self._agreement.reached_stop_point()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if not self._begun:
            raise KeyboardInterrupt(number)
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
        if threading.current_thread() is threading.main_thread():
            free = [each for each in _WARNING if signal.getsignal(each) == signal.SIG_DFL]
            self._old = {each: signal.signal(each, self._handle) for each in (*_STOPPING, *free)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._requests.put(None)
        self._reporter.join()
