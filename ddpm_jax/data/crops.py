"""Examples cropped from larger ones, at random positions that follow from (seed, step)."""

import numpy as np

from ddpm_jax.data.source import Source
from ddpm_jax.typing import Batch

# The last word of the counter makes these draws differ from those of the epochs' order.
_CROPS = 1


class CroppedSource:
    """Crops H×W of a source's larger images; `gather` returns the centre crops.

    The host crops them, so only the crop goes to the device, and the compiled step is the same as
    without crops.
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
    def margin(self) -> np.ndarray:
        """The largest top and left coordinate of a crop: int64 `[2]`."""
        return np.array(self.larger.shape[:2]) - np.array(self.size)

    def gather(self, indices: np.ndarray) -> Batch:
        return self.cut(indices, np.tile(self.margin // 2, (len(indices), 1)))

    def cut(self, indices: np.ndarray, corners: np.ndarray) -> Batch:
        """Returns the crops with the upper left corners `corners`, int `[n, 2]` in 0 … margin."""
        whole = self.larger.gather(indices)
        height, width = self.size
        crops = [
            image[top : top + height, left : left + width]
            for image, (top, left) in zip(np.asarray(whole.examples), corners, strict=True)
        ]
        shape = (len(indices), *self.shape)
        return whole._replace(examples=np.stack(crops) if crops else np.empty(shape, np.uint8))


def crop_corners(seed: int, step: int, batch_size: int, margin: np.ndarray) -> np.ndarray:
    """Returns a corner for each row of the global batch of a step, int64 `[batch_size, 2]`.

    They are uniform in 0 … margin, up to 1 part in 2^50. They come from the raw bits of
    Philox4x64-10, as in `epoch_order`, with the seed as key and the step in the counter.
    """
    counter = np.array([0, step, 0, _CROPS], np.uint64)
    bits = np.random.Philox(key=np.array([seed, 0], np.uint64), counter=counter)
    raw = bits.random_raw(2 * batch_size).reshape(batch_size, 2)
    return (raw % (margin + 1).astype(np.uint64)).astype(np.int64)
