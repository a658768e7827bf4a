"""Signals as wishes: a run saves before it ends, all processes of it at the same step."""

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from ddpm_jax.distributed import Appointment, alone


class Stop:
    """Turns SIGTERM and the first SIGINT into a wish that the loop grants after its next step.

    A wish of one process is a wish of all.
    """

    def __init__(self, say: Callable[[str], None]):
        """`say` is told, when a wish comes, that it was heard."""
        self.signal: int | None = None
        self._say = say
        self._appointment = None if alone() else Appointment(self._heard)

    def reached(self) -> bool:
        """Whether it is time to save and end; every process asks at the same places of its way."""
        if self._appointment is None:
            return self.signal is not None
        return self._appointment.reached()

    @property
    def exit_code(self) -> int:
        return 130 if self.signal == signal.SIGINT else 0

    def _wish(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT:
            # The next one is the system's: Python's own would wait for a compilation to end.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._appointment is None:
            self._heard(number)
        else:
            self._appointment.want(number)

    def _heard(self, number: int) -> None:
        self.signal = number
        hint = "; once more ends at once, without saving" if number == signal.SIGINT else ""
        # A signal may come in the middle of another line being printed.
        with suppress(RuntimeError):
            self._say(f"saving after this step{hint}")

    def __enter__(self) -> "Stop":
        self._old = {n: signal.signal(n, self._wish) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
