"""Process 0's end of the line between the processes of a run."""

import socket
import threading
import time
from contextlib import suppress
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed.connection import PROTOCOL, Gone, Line, split


class Server:
    """Process 0's end: hands round what each process says, and tells who is gone."""

    def __init__(self, address: str, count: int):
        """Raises UserError if the port of `address` (HOST:PORT) can't be had."""
        host, port = split(address)
        # Only this machine need reach a coordinator that is called by its local name.
        local = host == "localhost" or host.startswith("127.")
        try:
            if not local and socket.has_dualstack_ipv6():
                family = socket.AF_INET6
                self._listener = socket.create_server(
                    ("", port), family=family, dualstack_ipv6=True, backlog=count
                )
            else:
                self._listener = socket.create_server(
                    (host if local else "", port), backlog=max(count, 8)
                )
        except OSError as error:
            raise UserError(
                f"process 0 can't listen at {address} on {socket.gethostname()}: "
                f"{error.strerror or error}; give another port, or end what holds it"
            ) from None
        self._count = count
        self._lock = threading.Lock()
        self._lines: dict[int, Line] = {}
        self._hosts: dict[int, str] = {}
        self._left: set[int] = set()
        self._values: dict[str, dict[int, Any]] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # A stranger, a port scan say, must not hold a place, nor end the run.
        connection.settimeout(10)
        line = Line(connection)
        hello = line.receive()
        process = self._admit(line, hello) if hello else None
        if process is None:
            line.close()
            return
        connection.settimeout(None)
        while (message := line.receive()) is not None:
            self._hear(process, message)
        with self._lock:
            if process not in self._left:
                self._announce(process, "ended without a word, or its machine is cut off", 1)
            self._left.add(process)
        line.close()

    def _admit(self, line: Line, hello: dict[str, Any]) -> int | None:
        process, of = hello.get("process"), hello.get("of")
        known = hello.get("hello") == PROTOCOL
        if not known or not isinstance(process, int) or not isinstance(of, int):
            return None
        host = str(hello.get("host"))
        with self._lock:
            refusal = None
            if of != self._count:
                refusal = f"is one of {of} processes, and process 0 of {self._count}"
            elif not 0 <= process < self._count:
                refusal = f"is not one of 0 … {self._count - 1}"
            elif process in self._lines:
                refusal = f"is there already, on {self._hosts[process]}"
            if refusal is not None:
                why = f"process {process} on {host} {refusal}; start each number once"
                line.send(refused=why)
                # A set-up that is wrong for one is wrong for all.
                self._broadcast(refused=why)
                return None
            self._lines[process], self._hosts[process] = line, host
            missing = [n for n in range(self._count) if n not in self._lines]
            self._broadcast(missing=missing)
            if not missing:
                self._broadcast(welcome=[self._hosts[n] for n in range(self._count)])
        return process

    def _hear(self, process: int, message: dict[str, Any]) -> None:
        with self._lock:
            if "put" in message:
                topic = message["put"]
                values = self._values.setdefault(topic, {})
                values[process] = message["value"]
                if len(values) == self._count:
                    del self._values[topic]
                    self._broadcast(got=topic, values=[values[n] for n in range(self._count)])
            elif "tell" in message:
                self._broadcast(told=message["tell"], value=message["value"])
            elif "bye" in message:
                self._left.add(process)
                if message["why"] is not None:
                    self._announce(process, message["why"], message["bye"])

    def _announce(self, process: int, why: str, code: int) -> None:
        gone = Gone(process, self._hosts[process], why, code)
        self._broadcast(gone=list(gone), but=process)

    def _broadcast(self, *, but: int | None = None, **message: Any) -> None:
        for process, line in self._lines.items():
            if process != but:
                line.send(**message)

    def linger(self, seconds: float) -> None:
        """Waits until all others have left: without process 0 they'd not learn what happened."""
        end = time.monotonic() + seconds
        while len(self._left - {0}) < len(self._lines) - 1 and time.monotonic() < end:
            time.sleep(0.02)

    def close(self) -> None:
        self._listener.close()
