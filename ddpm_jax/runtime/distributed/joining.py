"""Joining the other processes, and ending with them."""

import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed.agreement import Agreed, first_says, gather, group
from ddpm_jax.runtime.distributed.channel import Channel
from ddpm_jax.runtime.distributed.cluster import Place
from ddpm_jax.runtime.distributed.connection import Gone, split, told
from ddpm_jax.runtime.distributed.server import Server

# Main and the news of a lost peer race; this long the one that knows less waits for the other.
_GRACE = 10


@contextmanager
def joined(place: Place) -> Iterator[None]:
    """Joins the others, starts `jax.distributed`, and ends with them.

    Enter it once, before any device is touched. An error inside, or the loss of another process,
    ends this process: it prints one line (a traceback first, if it was no UserError) and exits
    with 2 for a mistake of the user's, else 1.
    """
    try:
        _join(place)
        yield
        gather("end", None)
        # From here on a closed connection is no loss.
        group.leaving.set()
        gather("ended", None)
        _shut_down()
    except BaseException as error:
        _fail(error)
    assert group.channel is not None
    group.channel.leave()
    if group.server is not None:
        group.server.linger(_GRACE)
        group.server.close()
    group.channel = group.server = None


def _join(place: Place) -> None:
    begun = time.monotonic()
    if place.process_id == 0:
        group.server = Server(place.coordinator, place.num_processes)
    group.channel = Channel(place.coordinator, place.process_id, place.num_processes)
    group.channel.join(place.timeout)
    group.channel.listen(_lost)
    # JAX's coordinator gets a port of its own: this one stays in use for as long as the run lasts.
    host, _ = split(place.coordinator)
    port = first_says(_free_port)
    import jax

    # Its notice of SIGTERM would take the signal from `Stop`, which hears SIGINT as well.
    jax.config.update("jax_enable_preemption_service", False)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    _on_abort(
        2, f"JAX's coordinator at {address} is out of reach; open the ports between the hosts"
    )
    jax.distributed.initialize(
        address,
        place.num_processes,
        place.process_id,
        cluster_detection_method=None if place.detected else "deactivate",
        initialization_timeout=max(10, round(place.timeout - (time.monotonic() - begun))),
    )
    _on_abort(1, "JAX ended this process; what it said stands above")


def _free_port() -> int:
    with socket.create_server(("", 0)) as free:
        return free.getsockname()[1]


def _shut_down() -> None:
    import jax

    jax.distributed.shutdown()
    _restore(signal.SIGABRT)


def _lost(gone: Gone) -> None:
    """Ends this process because another one ended; called in the background."""
    if not group.leaving.is_set():
        group.leaving.set()
        # A mistake in the command is told as it stands: it may well be everyone's.
        mend = "" if gone.code == 2 else "; run the same command again to go on"
        _end(gone.code, f"{told(gone)}{mend}", None)


def _fail(error: BaseException) -> NoReturn:
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):
        # A peer's end breaks what was computed together; who it was, the channel will say.
        time.sleep(_GRACE / 2)
    if group.leaving.is_set():
        time.sleep(_GRACE)  # `_lost` is ending this process.
    group.leaving.set()
    if isinstance(error, Agreed):
        # The others are raising it as well.
        _end(2, " ".join(str(error).splitlines()), None)
    if isinstance(error, UserError):
        line = " ".join(str(error).splitlines())
        _end(2, line, f"ended: {line}")
    if isinstance(error, KeyboardInterrupt):
        _end(130, "interrupted", "was interrupted")
    traceback.print_exception(error)
    first = (str(error).splitlines() or [""])[0][:200]
    _end(1, f"{type(error).__name__}: {first}", f"ended: {type(error).__name__}: {first}")


def _end(code: int, line: str, why: str | None) -> NoReturn:
    """Says a line and leaves at once: JAX's own way out would wait for those who are gone."""
    # Not sys.stderr, which another thread may have redirected.
    print(f"ddpm: {line}", file=sys.__stderr__, flush=True)
    channel, server = group.channel, group.server
    if channel is not None:
        channel.leave(code, why)
    if server is not None:
        server.linger(_GRACE / 2)
    sys.stdout.flush()
    os._exit(code)


def _on_abort(code: int, line: str) -> None:
    """Says what ended this process when JAX's client aborts it, from a thread of C++.

    It has no other hook: a callback for it ends in std::bad_cast (jaxlib 0.10).
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def end(_: int) -> None:
        # Where a peer's loss is the reason, the channel is about to say so.
        time.sleep(_GRACE)
        if not group.leaving.is_set():
            _end(code, line, f"ended: {line}")
        _restore(signal.SIGABRT)

    _handlers.append(end)  # C holds no reference.
    ctypes.CDLL(None).signal(signal.SIGABRT, end)


_handlers: list[Any] = []


def _restore(number: int) -> None:
    """Restores the system's own answer to a signal; in any thread, unlike Python's."""
    ctypes.CDLL(None).signal(number, ctypes.c_void_p(0))
