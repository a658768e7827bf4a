"""Sources: random-access tables of examples and labels, in memory or decoded on demand."""

import errno
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from ddpm_jax.data.cache import Origin
from ddpm_jax.data.findings import Findings
from ddpm_jax.errors import UserError
from ddpm_jax.typing import Batch

_log = logging.getLogger(__name__)

# How many neighbours are tried in place of an example that became unreadable.
_NEIGHBOURS = 8


class Source(Protocol):
    """The interface of a data set; indices are in 0 … len-1, in any order.

    `gather` returns NumPy arrays: examples, uint8 `[n, H, W, C]` or float32 `[n, 2]`, and labels,
    int32 `[n]`, or None exactly if `class_names` is empty. An index always gives the same example.
    """

    @property
    def streams(self) -> bool:
        """Whether `gather` reads files or decodes, so that preparing batches ahead saves time."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label; empty if the data has no labels."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> Batch: ...


class ArraySource:
    """A data set in one array, `[N, *shape]`; a batch is one fancy indexing."""

    def __init__(
        self,
        examples: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] = (),
    ):
        self.examples, self.labels, self.class_names = examples, labels, class_names
        # A memory-mapped array is read from disk when it is gathered.
        self.streams = isinstance(examples, np.memmap)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.examples.shape[1:]

    def __len__(self) -> int:
        return len(self.examples)

    def gather(self, indices: np.ndarray) -> Batch:
        labels = None if self.labels is None else self.labels[indices]
        return Batch(np.asarray(self.examples[indices]), labels)


class Unreadable(Exception):
    """One example can't be read; it has a name and a reason."""

    def __init__(self, name: str, reason: object):
        text = isinstance(reason, OSError) and reason.strerror  # without the path
        self.name = one_line(name)
        self.reason = one_line(text or str(reason)) or type(reason).__name__
        super().__init__(f"{self.name}: {self.reason}")


def unreadable(name: str, error: Exception) -> Unreadable:
    """Returns the fault of an example; raises the error if the system can't read files just now."""
    raise_of_system(error)
    return Unreadable(name, error)


def raise_of_system(error: Exception) -> None:
    """Raises the error if it says that the system can't read files just now."""
    if isinstance(error, OSError) and error.errno in _OF_SYSTEM:
        raise error


_OF_SYSTEM = (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)


def one_line(text: str) -> str:
    """Returns one line of printable text: names and errors may contain control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class Tolerance(NamedTuple):
    """How a source handles examples that can't be read.

    `what` names the examples in messages. `check` reads one as cheaply as possible and raises
    Unreadable if that fails. `strict` makes an unreadable example an error.
    """

    what: str
    check: Callable[[int], object]
    strict: bool


class StreamSource:
    """A data set of images that are read and decoded when they are gathered.

    `read` takes indices and returns a pair for each: an image, uint8 `[H, W, C]`, and its label (0
    if the data has none). Several threads call it at once, because decoders release the GIL. With a
    `tolerance` it may raise Unreadable. `origin` is the key of the disk cache; None disables it.
    `read` fills the `findings`.
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
        tolerance: Tolerance | None = None,
        origin: Origin | None = None,
        findings: Findings | None = None,
    ):
        self.read, self.length, self.shape, self.class_names = read, length, shape, class_names
        self.tolerance, self.origin, self.findings = tolerance, origin, findings
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="ddpm-decode")
        self._missing: set[int] = set()

    def __len__(self) -> int:
        return self.length

    def gather(self, indices: np.ndarray) -> Batch:
        """Returns the examples; replaces one that became unreadable by the next index.

        A file that vanishes at step 90,000 must not end a run of days, so this only warns. A batch
        still depends only on its step and the readable files; after a restart the file is no longer
        listed. Raises UserError if the source is strict, or if the neighbours can't be read either,
        because then the disk is the likely cause.
        """
        examples = np.empty((len(indices), *self.shape), np.uint8)
        labels = np.empty(len(indices), np.int32) if self.class_names else None

        def fill(rows: np.ndarray) -> None:
            for row, (image, label) in zip(rows, self._read(indices[rows]), strict=True):
                examples[row] = image
                if labels is not None:
                    labels[row] = label

        # Several parts per worker balance pictures that take unequal time.
        parts = min(len(indices), 4 * self.workers)
        rows = np.array_split(np.arange(len(indices)), parts) if parts else []
        for _ in self.pool.map(fill, rows):
            pass
        return Batch(examples, labels)

    def part(self, indices: np.ndarray) -> "StreamSource":
        """Returns the source of some examples, in the order of their indices, int64 `[n]`."""
        return StreamSource(
            lambda some: self.read(indices[some]),
            length=len(indices),
            shape=self.shape,
            class_names=self.class_names,
            tolerance=self.tolerance,
        )

    def _read(self, indices: np.ndarray) -> Sequence[tuple[np.ndarray, int]]:
        try:
            return self.read(indices)
        except Unreadable:
            return [self._read_near(int(index)) for index in indices]

    def _read_near(self, index: int) -> tuple[np.ndarray, int]:
        first: Unreadable | None = None
        for near in range(index, index + 1 + _NEIGHBOURS):
            try:
                (found,) = self.read(np.array([near % self.length]))
            except Unreadable as error:
                first = first or error
                if self.tolerance is None or self.tolerance.strict:
                    break
                continue
            if first is not None:
                self._report(index, first)
            return found
        raise UserError(
            f"data: {first} (it was readable at the start); restore it, or mount its disk again, "
            "and run the same command again"
        ) from first

    def _report(self, index: int, error: Unreadable) -> None:
        if index not in self._missing:
            self._missing.add(index)
            what = self.tolerance.what if self.tolerance else "examples"
            count = f"{len(self._missing)} of {self.length} {what}"
            _log.warning("%s; its neighbour replaces it (%s lost since the start)", error, count)
