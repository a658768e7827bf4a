"""One connection between two processes: lines of JSON, and the news that the other end is gone."""

import json
import queue
import socket
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError

SILENCE = 30
"""Seconds after which a machine that no longer answers counts as lost."""

PROTOCOL = "ddpm_jax 1"
_LONGEST = 2**26


class Gone(NamedTuple):
    """A process that ended before the run did."""

    process: int
    host: str
    why: str
    code: int
    """What its end means for the others: 2 for a mistake of the user's, 1 for all else."""


class Line:
    """One connection: `send` puts a message on its way and never waits, `receive` does."""

    def __init__(self, connection: socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _probe(connection)
        self._connection = connection
        self._file = connection.makefile("rb")
        # A queue that a signal handler may put into, whatever it interrupted.
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        self._sender.start()

    def _send_all(self) -> None:
        while (message := self._waiting.get()) is not None:
            with suppress(OSError):  # Who reads learns of it.
                self._connection.sendall(message)

    def send(self, **message: Any) -> None:
        self._waiting.put(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Returns the next message, or None when the other end is gone or speaks no JSON."""
        try:
            line = self._file.readline(_LONGEST)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            message = None
        if isinstance(message, dict):
            return message
        self._file.close()
        return None

    def close(self) -> None:
        """Closes it once what waits has been sent."""
        self._waiting.put(None)
        self._sender.join(5)
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _probe(connection: socket.socket) -> None:
    """Has the kernel find out within SILENCE seconds that the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    each = SILENCE // 6
    # A Mac has another name for the first one; where the kernel has none, its default must do.
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    options = {
        idle: 2 * each,
        getattr(socket, "TCP_KEEPINTVL", None): each,
        getattr(socket, "TCP_KEEPCNT", None): 4,
        # Probes aren't sent while something waits to be acknowledged.
        getattr(socket, "TCP_USER_TIMEOUT", None): SILENCE * 1000,
    }
    for option, value in options.items():
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def told(gone: Gone) -> str:
    """What a lost process is to the others, in a line."""
    return f"process {gone.process} on {gone.host} {gone.why}"


def split(address: str) -> tuple[str, int]:
    """Takes HOST:PORT apart; raises UserError if it is something else."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--distributed.coordinator is {address}; it must be HOST:PORT")
    return host.strip("[]"), int(port)
