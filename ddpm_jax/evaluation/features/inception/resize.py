"""Resizing to the network's 299 by 299 pixels and to its range, as each known evaluator does it.

NumPy computes here because a compiler may round a product and a sum together, and a Fréchet
distance shows such a difference.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features.inception.network import SIDE
from ddpm_jax.tables import choose

_AT = np.arange(SIDE, dtype=np.float32)


def resize(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Returns uint8 images `[B, H, W, 1 or 3]` as float32 `[B, 299, 299, 3]`, about -1 … 1.

    `mode` is a row of RESIZES; ValueError if there is none. A single channel is repeated. Raises
    UserError for any other number of channels.
    """
    row = choose("resize mode", RESIZES, mode)
    refused = channels_obstacle(pixels.shape[-1])
    if refused is not None:
        raise UserError(refused)
    resized = np.empty((len(pixels), SIDE, SIDE, 3), np.float32)

    def fill(k: int) -> None:
        resized[k] = row(pixels[k])

    with ThreadPoolExecutor() as pool:  # NumPy and Pillow compute without Python's lock.
        list(pool.map(fill, range(len(pixels))))
    return resized


def channels_obstacle(channels: int) -> str | None:
    """Returns why images of so many channels can't be resized, or None."""
    if channels in (1, 3):
        return None
    alpha = "; leave out their alpha channel" if channels in (2, 4) else ""
    return f"Inception takes pictures of 1 or 3 channels, and these have {channels}{alpha}"


def _tf1(picture: np.ndarray) -> np.ndarray:
    """TensorFlow 1's bilinear resize, then (x - 128) / 128; as torch-fidelity, bit for bit.

    Output pixel i is read at i · scale: pixels have no half-width there.
    """
    return (_bilinear(picture.astype(np.float32), lambda scale: _AT * scale) - 128) / 128


def _torch(picture: np.ndarray) -> np.ndarray:
    """PyTorch's bilinear resize of x / 255, without antialiasing, then 2x - 1; as pytorch-fid.

    Output pixel i is read at (i + 1/2) · scale - 1/2.
    """

    def read_at(scale: np.float32) -> np.ndarray:
        # PyTorch multiplies and subtracts with one rounding (FMA): float64 holds the product.
        return np.maximum((_AT + 0.5) * np.float64(scale) - 0.5, 0).astype(np.float32)

    return 2 * _bilinear(picture.astype(np.float32) / 255, read_at) - 1


def _clean(picture: np.ndarray) -> np.ndarray:
    """Pillow's bicubic resize of float32 channels, clipped to 0 … 255, then (x - 128) / 128.

    It has an antialiasing filter, and does not round to whole levels; as clean-fid.
    """
    planes = [Image.fromarray(plane) for plane in np.moveaxis(picture.astype(np.float32), -1, 0)]
    resized = [plane.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for plane in planes]
    return (np.stack([np.asarray(plane) for plane in resized], -1).clip(0, 255) - 128) / 128


def _bilinear(x: np.ndarray, read_at: Callable[[np.float32], np.ndarray]) -> np.ndarray:
    """Interpolates `[H, W, C]` along its width, then along its height."""
    for axis in (1, 0):
        at = read_at(np.float32(x.shape[axis] / SIDE))
        low = at.astype(np.int64)
        share = (at - low.astype(np.float32)).reshape(-1, *[1] * (2 - axis))
        below, above = x.take(low, axis), x.take(np.minimum(low + 1, x.shape[axis] - 1), axis)
        x = below + (above - below) * share
    return x


RESIZES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tf1": _tf1,
    "torch": _torch,
    "clean": _clean,
}
"""Each takes a uint8 picture `[H, W, C]` to float32 `[299, 299, C]`."""
