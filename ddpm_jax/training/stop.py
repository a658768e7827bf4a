"""Signals as wishes: a run saves before it ends."""

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType


class Stop:
    """Turns SIGTERM and the first SIGINT into a wish that the loop grants after its next step."""

    def __init__(self, say: Callable[[str], None]):
        """`say` is told, when a wish comes, that it was heard."""
        self.signal: int | None = None
        self._say = say

    @property
    def exit_code(self) -> int:
        return 130 if self.signal == signal.SIGINT else 0

    def _wish(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        hint = ""
        if number == signal.SIGINT:
            # The next one is the system's: Python's own would wait for a compilation to end.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            hint = "; once more ends at once, without saving"
        # A signal may come in the middle of another line being printed.
        with suppress(RuntimeError):
            self._say(f"saving after this step{hint}")

    def __enter__(self) -> "Stop":
        self._old = {n: signal.signal(n, self._wish) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
