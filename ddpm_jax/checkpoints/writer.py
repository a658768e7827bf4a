"""Orbax's writer of arrays, and how it ends for all processes when it fails on one of them.

Orbax's processes wait for each other at several places of a save, and one whose disk is full comes
to none of them: the others would wait for minutes, and those that wait on their devices for ever.
"""

from typing import Any

import orbax.checkpoint as ocp

from ddpm_jax.files import StoragePath
from ddpm_jax.runtime.distributed import (
    AbortableBarriers,
    BarrierAborted,
    allgather,
    is_alone,
    is_first,
)


class Writer:
    """Writes states in the background; all processes make and use it alike."""

    def __init__(self):
        self._barriers = None if is_alone() else AbortableBarriers("save")
        self._orbax = (
            ocp.StandardCheckpointer() if self._barriers is None else _Shared(self._barriers)
        )

    def save(self, path: StoragePath, state: Any) -> None:
        """Copies a state to the host and begins to write it; `path` must not exist."""
        if self._barriers is not None:
            self._barriers.begin()
        self._orbax.save(str(path), state)

    def wait(self) -> None:
        """Waits until all have written; raises this process's error, or BarrierAborted."""
        self._orbax.wait_until_finished()

    def give_up(self) -> None:
        """Ends the save under way on every process, because it failed here."""
        if self._barriers is not None:
            self._barriers.abort()

    def close(self) -> None:
        """Waits for the save under way and ends Orbax's threads."""
        self._orbax.close()


class _Shared(ocp.StandardCheckpointer):
    """Orbax's writer with those of its waits replaced that outlast another process's failure."""

    def __init__(self, barriers: AbortableBarriers):
        def wait(*, key: str, timeout_ms: int) -> None:
            del timeout_ms  # What it guards against, a process that hangs, ends that one's writes.
            barriers.wait(key)

        options = ocp.AsyncOptions(
            barrier_sync_fn=wait,
            # In the background the others would await the folder in JAX's key-value store.
            create_directories_asynchronously=False,
        )
        super().__init__(async_options=options)

    async def create_temporary_path(self, temporary_path: Any) -> None:
        # Orbax waits on the devices before and after it, which has no end if this raises.
        failure = None
        if is_first():
            try:
                await temporary_path.create()
            except Exception as error:
                failure = error
        if not all(allgather("folder", failure is None)):
            raise failure or BarrierAborted()
