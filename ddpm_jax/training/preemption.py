"""Signals as wishes: a run saves before it ends, all processes of it at the same step."""

import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType

from ddpm_jax.runtime.distributed import StopAgreement, is_alone


class PreemptionHandler:
    """Turns SIGTERM and the first SIGINT into a wish that the loop grants after its next step.

    A wish of one process is a wish of all.
    """

    def __init__(self, say: Callable[[str], None]):
        """`say` is told, in a thread of its own, when a wish comes, that it was heard."""
        self.signal: int | None = None
        self._say = say
        # A signal may come in the middle of a line being printed, when its own thread can print
        # none; into this queue it may put whatever it interrupted.
        self._wishes: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._voice = threading.Thread(target=self._speak, daemon=True)
        self._agreement = None if is_alone() else StopAgreement(self._heard)

    def reached(self) -> bool:
        """Whether it is time to save and end; every process asks at the same places of its way."""
        if self._agreement is None:
            return self.signal is not None
        return self._agreement.reached_stop_point()

    @property
    def exit_code(self) -> int:
        return 130 if self.signal == signal.SIGINT else 0

    def _wish(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            # The next one is the system's: Python's own would wait for a compilation to end.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._agreement is None:
            self._heard(number)
        else:
            self._agreement.request(number)

    def _heard(self, number: int) -> None:
        self.signal = number
        self._wishes.put(number)

    def _speak(self) -> None:
        while (number := self._wishes.get()) is not None:
            hint = "; once more ends at once, without saving" if number == signal.SIGINT else ""
            self._say(f"saving after this step{hint}")

    def __enter__(self) -> "PreemptionHandler":
        self._voice.start()
        self._old = {n: signal.signal(n, self._wish) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._wishes.put(None)
        self._voice.join()
