"""Process 0's end of the channel between the processes of a run."""

import socket
import threading
import time
from contextlib import suppress
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed.connection import PROTOCOL, Connection, LostProcess, split


class Server:
    """Passes on what each process sends, and announces lost processes."""

    def __init__(self, address: str, count: int):
        """Raises UserError if the port of `address` (HOST:PORT) is not free."""
        host, port = split(address)
        # Only processes of this machine can reach a coordinator with a local name.
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
                f"{error.strerror or error}; choose another port, or end the process that holds it"
            ) from None
        self._count = count
        self._lock = threading.Lock()
        self._connections: dict[int, Connection] = {}
        self._hosts: dict[int, str] = {}
        self._left: set[int] = set()
        self._values: dict[str, dict[int, Any]] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        # A stranger, such as a port scan, must neither block a process nor end the run.
        sock.settimeout(10)
        connection = Connection(sock)
        hello = connection.receive()
        process = self._admit(connection, hello) if hello else None
        if process is None:
            connection.close()
            return
        sock.settimeout(None)
        while (message := connection.receive()) is not None:
            self._handle(process, message)
        with self._lock:
            if process not in self._left:
                self._announce(process, "ended without a message, or its machine is cut off", 1)
            self._left.add(process)
        connection.close()

    def _admit(self, connection: Connection, hello: dict[str, Any]) -> int | None:
        process, of = hello.get("process"), hello.get("of")
        known = hello.get("hello") == PROTOCOL
        if not known or not isinstance(process, int) or not isinstance(of, int):
            return None
        host = str(hello.get("host"))
        with self._lock:
            refusal = None
            if of != self._count:
                refusal = f"is one of {of} processes, but process 0 is one of {self._count}"
            elif not 0 <= process < self._count:
                refusal = f"is not one of 0 … {self._count - 1}"
            elif process in self._connections:
                refusal = f"has already joined, on {self._hosts[process]}"
            if refusal is not None:
                why = f"process {process} on {host} {refusal}; start each number once"
                connection.send(refused=why)
                # A wrong set-up of one process ends the start of all.
                self._broadcast(refused=why)
                return None
            self._connections[process], self._hosts[process] = connection, host
            missing = [n for n in range(self._count) if n not in self._connections]
            self._broadcast(missing=missing)
            if not missing:
                self._broadcast(welcome=[self._hosts[n] for n in range(self._count)])
        return process

    def _handle(self, process: int, message: dict[str, Any]) -> None:
        with self._lock:
            if "submit" in message:
                topic = message["submit"]
                values = self._values.setdefault(topic, {})
                values[process] = message["value"]
                if len(values) == self._count:
                    del self._values[topic]
                    self._broadcast(collected=topic, values=[values[n] for n in range(self._count)])
            elif "broadcast" in message:
                self._broadcast(news=message["broadcast"], value=message["value"])
            elif "leave" in message:
                self._left.add(process)
                if message["why"] is not None:
                    self._announce(process, message["why"], message["leave"])

    def _announce(self, process: int, why: str, code: int) -> None:
        lost = LostProcess(process, self._hosts[process], why, code)
        self._broadcast(lost=list(lost), but=process)

    def _broadcast(self, *, but: int | None = None, **message: Any) -> None:
        for process, connection in self._connections.items():
            if process != but:
                connection.send(**message)

    def linger(self, seconds: float) -> None:
        """Waits until all others have left, because only this server tells them what happened."""
        end = time.monotonic() + seconds
        while len(self._left - {0}) < len(self._connections) - 1 and time.monotonic() < end:
            time.sleep(0.02)

    def close(self) -> None:
        self._listener.close()
