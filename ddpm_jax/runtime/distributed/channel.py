"""The channel between the processes of a run: who is there, what they agree on, who is lost.

Process 0 listens. Every process, process 0 included, connects to it and exchanges lines of JSON
with it as long as the run lasts. When a process is killed, its connection closes. When a machine is
cut off, it stops answering the kernel's probes. In both cases the others know within SILENCE
seconds which process it was.

JAX's own service can't do this. Its client ends the process from C++, without a Python error, when
a peer or a port is missing, and it counts a killed process as alive until a timeout.
"""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed.connection import PROTOCOL, Connection, LostProcess, split


class Channel:
    """One process's end of the channel."""

    def __init__(self, address: str, process: int, count: int):
        self.address, self.process, self.count = address, process, count
        self.hosts: list[str] = []
        """The host of each process, known when all have joined."""
        self._changed = threading.Condition()
        self._values: dict[str, list[Any]] = {}
        self._news: dict[str, list[Any]] = {}
        self._handlers: dict[str, Callable[[Any], None]] = {}
        self._connection: Connection | None = None

    def join(self, timeout: float) -> None:
        """Connects to process 0 and waits for all; raises UserError after `timeout` seconds."""
        end = time.monotonic() + timeout
        sock = self._connect(end, timeout)
        connection = self._connection = Connection(sock)
        host = socket.gethostname()
        connection.send(hello=PROTOCOL, process=self.process, of=self.count, host=host)
        missing: list[int] = []
        while not self.hosts:
            sock.settimeout(max(0.1, end - time.monotonic()))
            message = connection.receive()
            if message is None:
                self._not_all(missing, timeout, end)
            elif "missing" in message:
                missing = message["missing"]
            elif "refused" in message:
                raise UserError(message["refused"])
            elif "lost" in message:
                lost = LostProcess(*message["lost"])
                raise UserError(lost.why if lost.code == 2 else lost.describe())
            self.hosts = (message or {}).get("welcome", [])
        sock.settimeout(None)

    def _connect(self, end: float, timeout: float) -> socket.socket:
        host, port = split(self.address)
        if self.process == 0:
            host = "localhost"  # Some networks don't route a machine's own address back to it.
        while True:
            try:
                left = max(0.1, end - time.monotonic())
                return socket.create_connection((host, port), timeout=left)
            except OSError as error:
                reason = error.strerror or str(error)
                if time.monotonic() >= end:
                    raise UserError(
                        f"process {self.process} on {socket.gethostname()} found no process 0 at "
                        f"{self.address} in {timeout:g} s ({reason}); start it there, or fix the "
                        "address"
                    ) from None
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))

    def _not_all(self, missing: list[int], timeout: float, end: float) -> None:
        if time.monotonic() < end or not missing:
            raise UserError(f"process 0 at {self.address} ended before all had joined; see its log")
        who = "process" if len(missing) == 1 else "processes"
        raise UserError(
            f"{who} {', '.join(map(str, missing))} of {self.count} did not connect to process 0 at "
            f"{self.address} in {timeout:g} s; see their logs, and start all of them"
        )

    def listen(self, on_loss: Callable[[LostProcess], None]) -> None:
        """Listens in the background, and calls `on_loss` there for the first lost process."""
        threading.Thread(target=self._listen, args=(on_loss,), daemon=True).start()

    def _listen(self, on_loss: Callable[[LostProcess], None]) -> None:
        assert self._connection is not None
        while (message := self._connection.receive()) is not None:
            if "lost" in message:
                on_loss(LostProcess(*message["lost"]))
                return
            with self._changed:
                if "collected" in message:
                    self._values[message["collected"]] = message["values"]
                    self._changed.notify_all()
                elif "news" in message:
                    self._news.setdefault(message["news"], []).append(message["value"])
            self._call_handlers()
        why = f"(the coordinator, {self.address}) ended without a message, or is cut off"
        on_loss(LostProcess(0, self.hosts[0], why, 1))

    def _call_handlers(self) -> None:
        """Calls the handlers in the order in which the news came."""
        for topic, handler in list(self._handlers.items()):
            for value in self._news.pop(topic, ()):
                handler(value)
                with self._changed:  # `met` may wait for what the handler changed.
                    self._changed.notify_all()

    def submit(self, topic: str, value: Any) -> None:
        """Sends this process's value of a topic and returns at once; safe in a signal handler."""
        assert self._connection is not None
        self._connection.send(submit=topic, value=value)

    def collect(self, topic: str) -> list[Any]:
        """Waits for the values of all processes, in their order; call it once per topic."""
        with self._changed:
            self._changed.wait_for(lambda: topic in self._values)
            return self._values.pop(topic)

    def met(self, topic: str, *, unless: Callable[[], bool]) -> bool:
        """Waits until all processes have submitted a value, or until `unless` is true."""
        with self._changed:
            self._changed.wait_for(lambda: topic in self._values or unless())
            return self._values.pop(topic, None) is not None

    def broadcast(self, topic: str, value: Any) -> None:
        """Sends news to all processes, this one included; all receive all news in one order."""
        assert self._connection is not None
        self._connection.send(broadcast=topic, value=value)

    def subscribe(self, topic: str, handler: Callable[[Any], None]) -> None:
        """Calls `handler` in the background with each news of a topic, earlier news included."""
        self._handlers[topic] = handler
        # A message through the server makes the listening thread, and no other, call handlers.
        self.broadcast("", None)

    def leave(self, code: int = 0, why: str | None = None) -> None:
        """Closes this end; with `why`, the others learn that this process failed."""
        if self._connection is not None:
            self._connection.send(leave=code, why=why)
            self._connection.close()
