"""A source: a random-access table of examples and labels, in memory or decoded on demand."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Protocol

import numpy as np

from ddpm_jax.typing import Batch

IN_MEMORY_BYTES = 2 * 2**30
"""Decoded sets up to this size are held as one array; larger ones are decoded on demand."""

_CHUNK = 4096


class Source(Protocol):
    """What the data layer asks of a data set; indices are in 0 … len-1, in any order.

    `gather` returns NumPy arrays: examples uint8 `[n, H, W, C]` or float32 `[n, 2]`, and labels
    int32 `[n]`, or None exactly where `class_names` is empty. The same index always gives the
    same example.
    """

    streams: bool
    """Whether `gather` decodes, so that a batch is worth preparing ahead."""
    class_names: tuple[str, ...]
    """The classes by label; empty if the data has no labels."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> Batch: ...


class ArraySource:
    """A data set in one array, `[N, *shape]`, gathered by one fancy indexing a batch."""

    streams: bool = False

    def __init__(
        self,
        examples: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] = (),
    ):
        self.examples, self.labels, self.class_names = examples, labels, class_names

    @property
    def shape(self) -> tuple[int, ...]:
        return self.examples.shape[1:]

    def __len__(self) -> int:
        return len(self.examples)

    def gather(self, indices: np.ndarray) -> Batch:
        labels = None if self.labels is None else self.labels[indices]
        return Batch(self.examples[indices], labels)


class StreamSource:
    """A data set of images that are read and decoded whenever they are gathered.

    `read` takes a few indices and returns as many pairs of an image, uint8 `[H, W, C]`, and its
    label, 0 where the data has none. It is called from several threads at once: decoders release
    the interpreter's lock.
    """

    streams: bool = True
    workers: ClassVar[int] = min(32, os.cpu_count() or 1)

    def __init__(
        self,
        read: Callable[[np.ndarray], Sequence[tuple[np.ndarray, int]]],
        *,
        length: int,
        shape: tuple[int, ...],
        class_names: tuple[str, ...] = (),
    ):
        self.read, self.length, self.shape, self.class_names = read, length, shape, class_names
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="ddpm-decode")

    def __len__(self) -> int:
        return self.length

    def gather(self, indices: np.ndarray) -> Batch:
        examples = np.empty((len(indices), *self.shape), np.uint8)
        labels = np.empty(len(indices), np.int32) if self.class_names else None

        def fill(rows: np.ndarray) -> None:
            for row, (image, label) in zip(rows, self.read(indices[rows]), strict=True):
                examples[row] = image
                if labels is not None:
                    labels[row] = label

        # Several parts a worker even out pictures that take unequal time.
        parts = min(len(indices), 4 * self.workers)
        rows = np.array_split(np.arange(len(indices)), parts) if parts else []
        for _ in self._pool.map(fill, rows):
            pass
        return Batch(examples, labels)


def load(source: StreamSource, *, limit: int | None = None) -> Source:
    """Returns the source decoded into one array if that takes at most `limit` bytes, else as it is.

    The limit is IN_MEMORY_BYTES unless given. Both give the same batches.
    """
    from tqdm import tqdm

    limit = IN_MEMORY_BYTES if limit is None else limit
    if len(source) * math.prod(source.shape) > limit:
        return source
    examples = np.empty((len(source), *source.shape), np.uint8)
    labels = np.empty(len(source), np.int32) if source.class_names else None
    # `disable=None` shows the bar on a terminal only.
    with tqdm(total=len(source), desc="decoding", unit=" images", disable=None) as bar:
        for start in range(0, len(source), _CHUNK):
            indices = np.arange(start, min(start + _CHUNK, len(source)))
            part = source.gather(indices)
            examples[indices] = part.examples
            if labels is not None and part.labels is not None:
                labels[indices] = part.labels
            bar.update(len(indices))
    return ArraySource(examples, labels, source.class_names)
