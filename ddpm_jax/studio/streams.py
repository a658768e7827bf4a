"""Work in a thread whose events a page receives one by one, until it is done or nobody listens."""

import asyncio
import json
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from ddpm_jax.errors import UserError

MOST_STREAMS = 8
"""Chains and trainings that run at once."""
FRAME_SECONDS = 1 / 25
_AHEAD = 3
"""Events that wait for a page that reads slowly; then the work waits too."""


class Stopped(Exception):
    """The page that asked for the work is gone."""


class Stream:
    """What work sends to a page; it raises Stopped when the page is gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop, self._queue = loop, asyncio.Queue[tuple[str, Any] | None](_AHEAD)
        self._gone, self._last = threading.Event(), 0.0

    def check(self) -> None:
        """Raises Stopped if the page is gone."""
        if self._gone.is_set():
            raise Stopped

    def due(self) -> bool:
        """Whether the last frame was sent long enough ago for the next one."""
        return time.monotonic() - self._last >= FRAME_SECONDS

    def frame(self, name: str, data: Any) -> None:
        """Sends a frame, as soon as one is due."""
        self._gone.wait(max(0.0, self._last + FRAME_SECONDS - time.monotonic()))
        self._last = time.monotonic()
        self.send(name, data)

    def send(self, name: str, data: Any) -> None:
        """Sends an event; waits while the page reads slowly."""
        self._put((name, data))

    def _put(self, item: tuple[str, Any] | None) -> None:
        sent = asyncio.run_coroutine_threadsafe(self._queue.put(item), self._loop)
        while True:
            self.check()
            try:
                return sent.result(0.5)
            except NotYet:
                continue

    def run(self, work: Callable[["Stream"], None]) -> None:
        """Does the work; its errors become the last event."""
        try:
            try:
                work(self)
            except UserError as error:
                self.send("error", {"error": str(error)})
            except Stopped:
                raise
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                self.send("error", {"error": f"{type(error).__name__}: {error}"})
            self._put(None)
        except (Stopped, RuntimeError):  # RuntimeError: the server itself has ended.
            pass

    async def events(self) -> AsyncGenerator[tuple[str, Any]]:
        """Yields the events; the work stops when the reader does."""
        try:
            while (item := await self._queue.get()) is not None:
                yield item
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the work at its next event."""
        self._gone.set()
        while not self._queue.empty():
            self._queue.get_nowait()


class Streams:
    """The streams under way."""

    def __init__(self):
        self._running = 0
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """How many there are."""
        return self._running

    def start(self, work: Callable[[Stream], None]) -> Stream:
        """Starts work in a thread of its own; raises UserError if too much is under way."""
        with self._lock:
            if self._running >= MOST_STREAMS:
                raise UserError(f"{MOST_STREAMS} chains run already: wait, or stop one")
            self._running += 1
        stream = Stream(asyncio.get_running_loop())

        def whole() -> None:
            try:
                stream.run(work)
            finally:
                with self._lock:
                    self._running -= 1

        threading.Thread(target=whole, name="ddpm-studio", daemon=True).start()
        return stream


def as_text(name: str, data: Any) -> str:
    """Returns an event as the page's EventSource format has it."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
