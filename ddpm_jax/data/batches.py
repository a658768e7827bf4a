"""The batch of step n, from the seed and n alone: nothing is consumed, so nothing is to resume.

The examples of a run are one endless sequence: all indices in the shuffled order of epoch 0, then
of epoch 1, and so on. Step n takes positions n·B … (n+1)·B - 1 of it, for a batch of B examples
over all processes.
"""

import functools
from typing import Any

import numpy as np

from ddpm_jax.data.crops import CroppedSource, crop_corners
from ddpm_jax.data.source import Source
from ddpm_jax.typing import Batch

_FOREVER = 2**60

Rows = slice | np.ndarray
"""Places in a batch: int64 `[R]`, or a slice."""


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the permutation of 0 … n-1 that is the order of an epoch, int64 `[n]`, read-only.

    It sorts the raw bits of Philox4x64-10 keyed by (seed, epoch). Those are fixed by their paper,
    where the shuffles of a NumPy Generator may change with NumPy. Seed and epoch are in
    0 … 2^64 - 1. Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.setflags(write=False)  # it is shared through the cache
    return order


def batch_indices(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """Returns which of the n examples are in the batch of a step, int64 `[batch_size]`.

    A batch may straddle the edge of two epochs, or hold several.
    """
    indices = np.empty(batch_size, np.int64)
    start = step * batch_size
    row = 0
    while row < batch_size:
        epoch, offset = divmod(start + row, n)
        count = min(batch_size - row, n - offset)
        indices[row : row + count] = epoch_order(seed, epoch, n)[offset : offset + count]
        row += count
    return indices


def local_batch(
    source: Source,
    *,
    seed: int,
    step: int,
    batch_size: int,
    rows: Rows = slice(None),
) -> Batch:
    """Returns this process's rows of the batch of a step, in NumPy.

    `batch_size` counts over all processes. `rows` are the places in the batch that this process
    needs, in the order in which it wants them; they alone are read.
    """
    indices = batch_indices(seed, step, batch_size, len(source))[rows]
    if isinstance(source, CroppedSource):
        corners = crop_corners(seed, step, batch_size, source.room)[rows]
        return source.cut(indices, corners)
    return source.gather(indices)


class Batches:
    """Calls with a step return `local_batch` of that step; close it when done.

    Of a source that decodes on demand, Grain prepares the next steps' batches meanwhile; it needs
    no state of its own, as a batch is a function of the step. Any step may be asked for at any
    time. What goes wrong in the background is raised by the call that asks for that step.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        batch_size: int,
        rows: Rows = slice(None),
    ):
        self._batch = functools.partial(
            local_batch,
            source,
            seed=seed,
            batch_size=batch_size,
            rows=rows,
        )
        self._streams = source.streams
        self._ahead: Any = None
        self._next = 0

    def __call__(self, step: int) -> Batch:
        if not self._streams:
            return self._batch(step=step)
        if self._ahead is None or step != self._next:
            self.close()
            self._ahead = self._from(step)
        self._next = step + 1
        return next(self._ahead)

    def _from(self, step: int) -> Any:
        import grain  # two seconds, which data in memory need not wait for

        steps = grain.MapDataset.range(step, _FOREVER)
        # The source decodes in threads of its own; this one only keeps it busy.
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        batches = steps.map(lambda n: self._batch(step=n)).to_iter_dataset(reading)
        return iter(batches)

    def close(self) -> None:
        """Ends the background work; may be called twice."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
