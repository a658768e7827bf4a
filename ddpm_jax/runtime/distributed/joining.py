"""Joins the other processes of a run, and ends with them."""

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
from ddpm_jax.runtime.distributed.agreement import (
    SharedError,
    allgather,
    broadcast_from_first,
    group,
)
from ddpm_jax.runtime.distributed.channel import Channel
from ddpm_jax.runtime.distributed.cluster import ProcessSpec
from ddpm_jax.runtime.distributed.connection import LostProcess, split
from ddpm_jax.runtime.distributed.server import Server

# The main thread and the news of a lost peer race: seconds for which the main thread waits.
_GRACE = 10


@contextmanager
def joined(spec: ProcessSpec) -> Iterator[None]:
    """Joins the others and starts `jax.distributed`; at the end, leaves together with them.

    Enter it once, before any device is touched. An error inside, or the loss of another process,
    ends this process. It prints one line (after a traceback, unless the error is a UserError) and
    exits with 2 for a mistake of the user, else with 1.
    """
    try:
        _join(spec)
        yield
        allgather("end", None)
        # From now on, a closed connection is not a loss.
        group.leaving.set()
        allgather("ended", None)
        _shut_down()
    except BaseException as error:
        _fail(error)
    assert group.channel is not None
    group.channel.leave()
    if group.server is not None:
        group.server.linger(_GRACE)
        group.server.close()
    group.channel = group.server = None


def _join(spec: ProcessSpec) -> None:
    begun = time.monotonic()
    if spec.process_id == 0:
        group.server = Server(spec.coordinator, spec.num_processes)
    group.channel = Channel(spec.coordinator, spec.process_id, spec.num_processes)
    group.channel.join(spec.timeout)
    group.channel.listen(_on_loss)
    # JAX's coordinator gets another port, because the channel uses this one during the whole run.
    host, _ = split(spec.coordinator)
    port = broadcast_from_first(_free_port)
    import jax

    # JAX's service would take SIGTERM away from `training.preemption`, which also handles SIGINT.
    if hasattr(jax.config, "jax_enable_preemption_service"):
        jax.config.update("jax_enable_preemption_service", False)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    _on_abort(
        2, f"JAX's coordinator at {address} can't be reached; open the ports between the hosts"
    )
    jax.distributed.initialize(
        address,
        spec.num_processes,
        spec.process_id,
        cluster_detection_method=None if spec.detected else "deactivate",
        initialization_timeout=max(10, round(spec.timeout - (time.monotonic() - begun))),
    )
    _on_abort(1, "JAX ended this process; see its message above")


def _free_port() -> int:
    with socket.create_server(("", 0)) as free:
        return free.getsockname()[1]


def _shut_down() -> None:
    import jax

    jax.distributed.shutdown()
    _restore(signal.SIGABRT)


def _on_loss(lost: LostProcess) -> None:
    """Ends this process because another one ended; runs in the background."""
    if not group.leaving.is_set():
        group.leaving.set()
        # The user's mistake already says what to fix.
        advice = "" if lost.code == 2 else "; run the same command again to continue"
        _end(lost.code, f"{lost.describe()}{advice}", None)


def _fail(error: BaseException) -> NoReturn:
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):
        # A lost peer breaks collective operations. Give the channel time to say which one it was.
        time.sleep(_GRACE / 2)
    if group.leaving.is_set():
        time.sleep(_GRACE)  # `_on_loss` is ending this process.
    group.leaving.set()
    if isinstance(error, SharedError):
        # The others raise it as well.
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
    """Prints a line and exits at once; JAX's own shutdown would wait for the lost processes."""
    # Another thread may have redirected sys.stderr.
    print(f"ddpm: {line}", file=sys.__stderr__, flush=True)
    channel, server = group.channel, group.server
    if channel is not None:
        channel.leave(code, why)
    if server is not None:
        server.linger(_GRACE / 2)
    sys.stdout.flush()
    os._exit(code)


def _on_abort(code: int, line: str) -> None:
    """Prints a line when JAX's client aborts this process from a C++ thread.

    There is no other hook: JAX's own callback fails with std::bad_cast (jaxlib 0.10).
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def end(_: int) -> None:
        # If a peer was lost, the channel reports that first.
        time.sleep(_GRACE)
        if not group.leaving.is_set():
            _end(code, line, f"ended: {line}")
        _restore(signal.SIGABRT)

    _handlers.append(end)  # C holds no reference.
    ctypes.CDLL(None).signal(signal.SIGABRT, end)


_handlers: list[Any] = []


def _restore(number: int) -> None:
    """Restores the system's default action of a signal; works in any thread, unlike `signal`."""
    ctypes.CDLL(None).signal(number, ctypes.c_void_p(0))
