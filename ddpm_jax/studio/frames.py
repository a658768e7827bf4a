"""Frames of a chain as text that a page can show: pictures as data URLs, points as numbers."""

import base64
import io
import math

import numpy as np

from ddpm_jax.data.pixels import to_pixels
from ddpm_jax.sampling.samples import visible

MOST_BYTES = 48_000
"""Bytes of each of a frame's two pictures as the event has them, which is in base64."""
_QUALITIES = ((92, 0), (75, 0), (50, 0), (50, 2), (25, 2), (10, 2))
"""Qualities of a JPEG, and whether colours are stored at each pixel (0) or at each fourth (2)."""


def columns_of(num: int) -> int:
    """Returns the columns of a board of so many pictures, about as many as its rows."""
    return math.ceil(math.sqrt(num))


def board(examples: np.ndarray, shown: tuple[int, ...] | None) -> np.ndarray:
    """Returns pictures `[n, h, w, C]` in [-1, 1] as one picture, uint8 `[H, W, 1 or 3]`.

    They touch, in rows of `columns_of(n)`. Of other numbers of channels the first is shown.
    """
    pixels = np.asarray(to_pixels(np.nan_to_num(visible(examples, shown), nan=-1.0)))
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]
    n, height, width, channels = pixels.shape
    columns = columns_of(n)
    rows = math.ceil(n / columns)
    full = np.zeros((rows * columns, height, width, channels), np.uint8)
    full[:n] = pixels
    grid = full.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def png(pixels: np.ndarray) -> bytes:
    """Returns uint8 `[H, W, 1 or 3]` as a PNG."""
    return _encoded(pixels, "PNG", compress_level=1)


def data_url(pixels: np.ndarray) -> str:
    """Returns a picture as a data URL: a PNG, or a JPEG where that has too many bytes."""
    found, kind = png(pixels), "png"
    for quality, subsampling in _QUALITIES:
        if len(found) * 4 / 3 < MOST_BYTES:
            break
        found, kind = _encoded(pixels, "JPEG", quality=quality, subsampling=subsampling), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(found).decode()}"


def _encoded(pixels: np.ndarray, form: str, **options: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    flat = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(flat).save(file, form, **options)
    return file.getvalue()


def numbers(points: np.ndarray) -> str:
    """Returns an array as base64 of its float32, little end first."""
    return base64.b64encode(np.ascontiguousarray(points, "<f4").tobytes()).decode()


def shown_frame(
    x: np.ndarray, x_0: np.ndarray | None, shown: tuple[int, ...] | None
) -> dict[str, str | None]:
    """Returns x_t and x̂_0 for the page; x̂_0 may be missing."""
    if x.ndim == 2:
        return {"x": numbers(x), "x_0": None if x_0 is None else numbers(x_0)}
    found = [None if each is None else data_url(board(each, shown)) for each in (x, x_0)]
    return {"x": found[0], "x_0": found[1]}
