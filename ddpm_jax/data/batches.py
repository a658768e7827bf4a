"""The batch of step n as a function of the seed and n, so that a resumed run needs no data state.

The examples of a run form one endless sequence: all indices in the shuffled order of epoch 0, then
of epoch 1, and so on. Step n takes positions n·B … (n+1)·B - 1 of it, where B is the batch size
over all processes.
"""

import functools
from typing import Any

import numpy as np

from ddpm_jax.data.crops import CroppedSource, crop_corners
from ddpm_jax.data.source import Source
from ddpm_jax.typing import Batch

_FOREVER = 2**60

RowSelection = slice | np.ndarray
"""Rows of a batch: indices, int64 `[R]`, or a slice."""


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the permutation of 0 … n-1 that is the order of an epoch, int64 `[n]`, read-only.

    It sorts the raw bits of Philox4x64-10 with the key (seed, epoch). A paper defines these bits,
    while the shuffles of a NumPy Generator may change with NumPy's version. Seed and epoch are in
    0 … 2^64 - 1. Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.setflags(write=False)  # the cache shares it
    return order


def batch_indices(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """Returns the indices of the examples in the batch of a step, int64 `[batch_size]` in 0 … n-1.

    A batch may span the end of an epoch, or several epochs.
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
    rows: RowSelection = slice(None),
) -> Batch:
    """Returns this process's rows of the batch of a step, as NumPy arrays.

    `batch_size` counts the examples of all processes. `rows` selects the rows of this process, in
    order; no others are read.
    """
    indices = batch_indices(seed, step, batch_size, len(source))[rows]
    if isinstance(source, CroppedSource):
        corners = crop_corners(seed, step, batch_size, source.margin)[rows]
        return source.cut(indices, corners)
    return source.gather(indices)


class Batches:
    """A callable: `batches(step)` returns `local_batch` of that step. Close it when done.

    If the source decodes on demand, Grain prepares the batches of the next steps in the background.
    Steps may come in any order. An error in the background is raised by the call for its step.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        batch_size: int,
        rows: RowSelection = slice(None),
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
        import grain  # takes two seconds, and data in memory doesn't need it

        steps = grain.MapDataset.range(step, _FOREVER)
        # The source has its own decoding threads; this thread only feeds them.
        reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        batches = steps.map(lambda n: self._batch(step=n)).to_iter_dataset(reading)
        return iter(batches)

    def close(self) -> None:
        """Stops the background work; may be called twice."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
