"""One connection between two processes: lines of JSON, and notice when the other end is lost."""

import json
import queue
import socket
import threading
from contextlib import suppress
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError

SILENCE = 30
"""Seconds after which a machine that no longer answers counts as lost."""

PROTOCOL = "ddpm_jax 2"
_LONGEST = 2**26


class LostProcess(NamedTuple):
    """A process that ended before the run did."""

    process: int
    host: str
    why: str
    code: int
    """The exit code of the others: 2 for a mistake of the user, 1 for all else."""

    def describe(self) -> str:
        """Returns what happened, in one line."""
        return f"process {self.process} on {self.host} {self.why}"


class Connection:
    """A socket that carries messages: `send` queues one and returns at once, `receive` waits."""

    def __init__(self, sock: socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(sock)
        self._socket = sock
        self._file = sock.makefile("rb")
        # A signal handler may add to a SimpleQueue, whatever code it interrupted.
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        self._sender.start()

    def _send_all(self) -> None:
        while (message := self._waiting.get()) is not None:
            with suppress(OSError):  # The reading thread notices the loss.
                self._socket.sendall(message)

    def send(self, **message: Any) -> None:
        self._waiting.put(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Returns the next message, or None if the other end is lost or sends no JSON."""
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
        """Sends the queued messages, then closes the socket."""
        self._waiting.put(None)
        self._sender.join(5)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _keep_alive(sock: socket.socket) -> None:
    """Makes the kernel notice within SILENCE seconds that the other machine is lost."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    each = SILENCE // 6
    # macOS has another name for the first option. If a kernel has neither, its default applies.
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    options = {
        idle: 2 * each,
        getattr(socket, "TCP_KEEPINTVL", None): each,
        getattr(socket, "TCP_KEEPCNT", None): 4,
        # The kernel sends no probes while data waits for an acknowledgement.
        getattr(socket, "TCP_USER_TIMEOUT", None): SILENCE * 1000,
    }
    for option, value in options.items():
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def split(address: str) -> tuple[str, int]:
    """Splits HOST:PORT into host and port; raises UserError for anything else."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"distributed.coordinator is {address}; it must be HOST:PORT")
    return host.strip("[]"), int(port)
