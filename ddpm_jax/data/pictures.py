"""One picture of any kind, from a file or its bytes, to the pixels of an example."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode_picture(picture: bytes | Path, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the picture as uint8 `[H, W, C]` of the given shape, C = 1 (grey), 3 or 4 (alpha).

    It is turned as its EXIF says, scaled with antialiasing until it just covers H×W, and cropped
    around its centre. 16-bit pictures keep their upper range; where C has no alpha, transparent
    places show white; of an animation the first frame is taken. Raises what Pillow raises
    (OSError, SyntaxError, DecompressionBombError and others) when it can't be read.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        # A JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the time; twice the target's size
        # leaves the scaling below enough to average over. Other formats ignore this.
        enough = 2 * max(height, width)
        image.draft(None, (enough, enough))
        upright = ImageOps.exif_transpose(image)
        pixels = _convert(upright, channels)
    if pixels.size != (width, height):
        pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(pixels).reshape(shape)


def _convert(image: "Image.Image", channels: int) -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I"):
        # 16 bits (as "I;16", or "I" where Pillow widens them): 65535 / 255 = 257.
        levels = np.clip(np.asarray(image, np.float64), 0, 65535)
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data and channels != 4:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(_MODES[channels])
