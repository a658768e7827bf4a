"""A part of the data that training does not see."""

import numpy as np

from ddpm_jax.data.crops import CroppedSource
from ddpm_jax.data.source import Source, StreamSource
from ddpm_jax.errors import UserError
from ddpm_jax.typing import Batch

# The last word of the counter makes this draw differ from those of epochs and crops.
_HELD_OUT = 2


def hold_out(source: Source, share: float, seed: int) -> tuple[Source, Source]:
    """Returns what is left of a source to train on, in its order, and the held-out share, shuffled.

    Only the seed and the number of examples decide which are held out. Raises UserError if either
    part has no examples.
    """
    order = shuffled(len(source), seed)
    count = round(share * len(source))
    if not 0 < count < len(source):
        raise UserError(
            f"validation.share is {share}; of {len(source):,} examples it must hold out at least "
            "one and leave at least one"
        )
    return part_of(source, np.sort(order[count:])), part_of(source, order[:count])


def shuffled(n: int, seed: int) -> np.ndarray:
    """Returns a permutation of 0 … n-1, int64 `[n]`, as `epoch_order` draws those of epochs."""
    counter = np.array([0, 0, 0, _HELD_OUT], np.uint64)
    bits = np.random.Philox(key=np.array([seed, 0], np.uint64), counter=counter).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


def part_of(source: Source, indices: np.ndarray) -> Source:
    """Returns the source of some examples, in the order of their indices, int64 `[n]`."""
    if isinstance(source, CroppedSource):
        return CroppedSource(part_of(source.larger, indices), source.size)
    # One that became unreadable is replaced by a neighbour in the same part.
    return source.part(indices) if isinstance(source, StreamSource) else _Part(source, indices)


class _Part:
    """The examples of a source at some indices."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source, self.indices = source, indices
        self.streams, self.shape = source.streams, source.shape
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self.indices)

    def gather(self, indices: np.ndarray) -> Batch:
        return self.source.gather(self.indices[indices])
