"""Decodes and scales one picture to the pixels of an example."""

import functools
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# Pillow detects a format by content, and some formats start other programs (EPS: Ghostscript).
# So only the formats of SUFFIXES are allowed, and PPM for scikit-learn's flower.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_EXIF_ORIENTATION = 0x0112


def decode_picture(picture: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the picture as uint8 `[H, W, C]` of the given shape, C = 1 (grey), 3 or 4 (alpha).

    It is rotated as its EXIF says, scaled with antialiasing until it just covers H×W, and cropped
    around its centre. 16-bit levels are divided by 257. If C has no alpha, transparent pixels are
    drawn on white. Of an animation, the first frame is taken. Raises ValueError for too many
    pixels, and Pillow's errors (OSError, SyntaxError and others) if it can't be read.
    """
    with open_picture_file(picture) as image:
        # A JPEG can decode at 1/2, 1/4 or 1/8 in a fraction of the time. Twice the target's size is
        # enough for the antialiased scaling below. Other formats ignore this.
        enough = 2 * max(shape[:2])
        image.draft(None, (enough, enough))
        return _fit(upright(image), shape)


def fit_pixels(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Scales and crops uint8 pixels `[h, w]` or `[h, w, 1|3|4]` as `decode_picture` does."""
    from PIL import Image

    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    return _fit(Image.fromarray(np.ascontiguousarray(flat)), shape)


def open_picture_file(picture: bytes) -> "Image.Image":
    """Returns the picture after reading only its header; close it when done.

    Raises ValueError if it is not a picture or has more pixels than Pillow's `MAX_IMAGE_PIXELS` (89
    million), and Pillow's errors if its header is damaged.
    """
    from PIL import Image, UnidentifiedImageError

    _silence_warning()
    try:
        image = Image.open(io.BytesIO(picture), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError("it is not a picture" if picture else "it is empty") from None
    except Image.DecompressionBombError:
        image = None
    most = Image.MAX_IMAGE_PIXELS
    if image is None or (most is not None and image.width * image.height > most):
        raise ValueError(f"it has more than {most:,} pixels")
    return image


def upright(image: "Image.Image") -> "Image.Image":
    """Returns the decoded picture, rotated and mirrored as its EXIF orientation says."""
    from PIL.Image import Transpose

    # Pillow rotates a TIFF while loading it, and then reports no orientation.
    image.load()
    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


@functools.cache
def _silence_warning() -> None:
    from PIL.Image import DecompressionBombWarning

    # Pillow only warns up to twice its limit; we refuse everything above the limit ourselves.
    warnings.filterwarnings("ignore", category=DecompressionBombWarning)


def _orientation(image: "Image.Image") -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    # Intact pictures often have broken EXIF data, which can raise any error.
    except Exception:
        return 1


def _fit(image: "Image.Image", shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width, channels = shape
    pixels = _convert(image, channels)
    if pixels.size != (width, height):
        pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(pixels).reshape(shape)


def _convert(image: "Image.Image", channels: int) -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I"):
        # 16 bits, as "I;16" or widened to "I": 65535 / 255 = 257.
        levels = np.clip(np.asarray(image, np.float64), 0, 65535)
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data and channels != 4:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(_MODES[channels])
