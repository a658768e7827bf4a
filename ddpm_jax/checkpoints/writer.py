"""Orbax's writer of arrays; when it fails on one process, it ends on all of them.

Orbax's processes wait for each other at several points of a save. A process whose disk is full
reaches none of them. The others would wait for minutes, and if they wait on their devices,
forever.
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
    """Writes states in the background; all processes create and use it together."""

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
        """Ends the current save on every process, because it failed here."""
        if self._barriers is not None:
            self._barriers.abort()

    def close(self) -> None:
        """Waits for the current save and ends Orbax's threads."""
        self._orbax.close()


class _Shared(ocp.StandardCheckpointer):
    """Orbax's writer with other barriers: waiting ends when another process fails."""

    def __init__(self, barriers: AbortableBarriers):
        def wait(*, key: str, timeout_ms: int) -> None:
            del timeout_ms  # It guards against a hanging process, but writes always end.
            barriers.wait(key)

        options = ocp.AsyncOptions(
            barrier_sync_fn=wait,
            # Created in the background, the folder would be awaited in JAX's key-value store.
            create_directories_asynchronously=False,
        )
        super().__init__(async_options=options)

    async def create_temporary_path(self, temporary_path: Any) -> None:
        # Orbax waits on the devices before and after this, which never ends if this raises.
        failure = None
        if is_first():
            try:
                await temporary_path.create()
            except Exception as error:
                failure = error
        if not all(allgather("folder", failure is None)):
            raise failure or BarrierAborted()
