"""Examples that are cut out of larger ones, at random places that follow from (seed, step)."""

import numpy as np

from ddpm_jax.data.source import Source
from ddpm_jax.typing import Batch

# The last word of the counter keeps these draws apart from those of the epochs' order.
_CROPS = 1


class CroppedSource:
    """Parts H×W of a source's larger images; `gather` gives those around the centre.

    They are cut on the host: a part is all that travels to the device, and the compiled step is
    that of a source without cuts.
    """

    def __init__(self, larger: Source, size: tuple[int, int]):
        self.larger, self.size = larger, size
        self.streams, self.class_names = larger.streams, larger.class_names

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.size, self.larger.shape[-1])

    def __len__(self) -> int:
        return len(self.larger)

    @property
    def room(self) -> np.ndarray:
        """How many places a part can lie at along height and width, less one: int64 `[2]`."""
        return np.array(self.larger.shape[:2]) - np.array(self.size)

    def gather(self, indices: np.ndarray) -> Batch:
        return self.cut(indices, np.tile(self.room // 2, (len(indices), 1)))

    def cut(self, indices: np.ndarray, corners: np.ndarray) -> Batch:
        """Returns the parts whose upper left corners, int `[n, 2]` in 0 … room, are given."""
        whole = self.larger.gather(indices)
        height, width = self.size
        parts = [
            image[top : top + height, left : left + width]
            for image, (top, left) in zip(np.asarray(whole.examples), corners, strict=True)
        ]
        shape = (len(indices), *self.shape)
        return whole._replace(examples=np.stack(parts) if parts else np.empty(shape, np.uint8))


def crop_corners(seed: int, step: int, batch_size: int, room: np.ndarray) -> np.ndarray:
    """Returns the corner of each place in the global batch of a step, int64 `[batch_size, 2]`.

    They are uniform in 0 … room, but for 1 part in 2^50. Raw bits of Philox4x64-10 as in
    `epoch_order`, keyed by the seed, and counted from the step.
    """
    counter = np.array([0, step, 0, _CROPS], np.uint64)
    bits = np.random.Philox(key=np.array([seed, 0], np.uint64), counter=counter)
    raw = bits.random_raw(2 * batch_size).reshape(batch_size, 2)
    return (raw % (room + 1).astype(np.uint64)).astype(np.int64)
