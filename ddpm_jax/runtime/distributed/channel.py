"""The line between the processes of a run: who is there, what they agree on, who is gone.

Process 0 listens, every process (it too) calls, and lines of JSON go to and fro for as long as the
run lasts. A process that is killed closes its connection with it, and a machine that is cut off
stops answering its kernel's probes: either way the others know within SILENCE seconds who it was.

JAX's own service can't say so: its client ends the process from C++ when a peer or a port is
missing, with no word of Python's, and it counts a killed process as alive until a timeout.
"""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed.connection import PROTOCOL, Gone, Line, split, told


class Channel:
    """A process's own end."""

    def __init__(self, address: str, process: int, count: int):
        self.address, self.process, self.count = address, process, count
        self.hosts: list[str] = []
        """Of each process, once all are there."""
        self._changed = threading.Condition()
        self._values: dict[str, list[Any]] = {}
        self._told: dict[str, list[Any]] = {}
        self._handlers: dict[str, Callable[[Any], None]] = {}
        self._line: Line | None = None

    def join(self, timeout: float) -> None:
        """Calls process 0 and waits until all are there; raises UserError after `timeout` s."""
        end = time.monotonic() + timeout
        connection = self._call(end, timeout)
        line = self._line = Line(connection)
        line.send(hello=PROTOCOL, process=self.process, of=self.count, host=socket.gethostname())
        missing: list[int] = []
        while not self.hosts:
            connection.settimeout(max(0.1, end - time.monotonic()))
            message = line.receive()
            if message is None:
                self._not_all(missing, timeout, end)
            elif "missing" in message:
                missing = message["missing"]
            elif "refused" in message:
                raise UserError(message["refused"])
            elif "gone" in message:
                gone = Gone(*message["gone"])
                raise UserError(gone.why if gone.code == 2 else told(gone))
            self.hosts = (message or {}).get("welcome", [])
        connection.settimeout(None)

    def _call(self, end: float, timeout: float) -> socket.socket:
        host, port = split(self.address)
        if self.process == 0:
            host = "localhost"  # Not every network leads back to the machine that asks.
        while True:
            try:
                left = max(0.1, end - time.monotonic())
                return socket.create_connection((host, port), timeout=left)
            except OSError as error:
                reason = error.strerror or str(error)
                if time.monotonic() >= end:
                    raise UserError(
                        f"process {self.process} on {socket.gethostname()} found no process 0 at "
                        f"{self.address} in {timeout:g} s ({reason}); start it there, or mend the "
                        "address"
                    ) from None
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))

    def _not_all(self, missing: list[int], timeout: float, end: float) -> None:
        if time.monotonic() < end or not missing:
            raise UserError(f"process 0 at {self.address} ended while the others were awaited")
        who = "process" if len(missing) == 1 else "processes"
        raise UserError(
            f"{who} {', '.join(map(str, missing))} of {self.count} did not come to process 0 at "
            f"{self.address} in {timeout:g} s; see what they say, and start all of them"
        )

    def listen(self, lost: Callable[[Gone], None]) -> None:
        """Goes on in the background; `lost` is told, there, of the first process that is gone."""
        threading.Thread(target=self._listen, args=(lost,), daemon=True).start()

    def _listen(self, lost: Callable[[Gone], None]) -> None:
        assert self._line is not None
        while (message := self._line.receive()) is not None:
            if "gone" in message:
                lost(Gone(*message["gone"]))
                return
            with self._changed:
                if "got" in message:
                    self._values[message["got"]] = message["values"]
                    self._changed.notify_all()
                elif "told" in message:
                    self._told.setdefault(message["told"], []).append(message["value"])
            self._hand_over()
        why = f"(the coordinator, {self.address}) ended without a word, or is cut off"
        lost(Gone(0, self.hosts[0], why, 1))

    def _hand_over(self) -> None:
        """Calls the handlers, in the order in which the news came."""
        for topic, handler in list(self._handlers.items()):
            for value in self._told.pop(topic, ()):
                handler(value)
                with self._changed:  # What is waited for may be news.
                    self._changed.notify_all()

    def put(self, topic: str, value: Any) -> None:
        """Says this process's part of a topic, without waiting; safe in a signal handler."""
        assert self._line is not None
        self._line.send(put=topic, value=value)

    def get(self, topic: str) -> list[Any]:
        """Waits for what every process put, in their order; once a topic."""
        with self._changed:
            self._changed.wait_for(lambda: topic in self._values)
            return self._values.pop(topic)

    def met(self, topic: str, *, unless: Callable[[], bool]) -> bool:
        """Waits until every process has put its part, or until news make `unless` true."""
        with self._changed:
            self._changed.wait_for(lambda: topic in self._values or unless())
            return self._values.pop(topic, None) is not None

    def tell(self, topic: str, value: Any) -> None:
        """Tells every process, this one too, without waiting; all hear all news in one order."""
        assert self._line is not None
        self._line.send(tell=topic, value=value)

    def on(self, topic: str, handler: Callable[[Any], None]) -> None:
        """Has the news of a topic handled, in the background; what came earlier too."""
        self._handlers[topic] = handler
        # Through the server, so that one thread alone calls handlers.
        self.tell("", None)

    def leave(self, code: int = 0, why: str | None = None) -> None:
        """Ends this end; with `why` the others are told that it was no end of the run."""
        if self._line is not None:
            self._line.send(bye=code, why=why)
            self._line.close()
