"""One picture of any kind, from its bytes or its pixels, to the pixels of an example."""

import functools
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# Pillow goes by the contents and not by the name, and knows formats that start other programs
# (EPS, Ghostscript): a file may be what its name can say, or scikit-learn's flower, and no more.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_EXIF_ORIENTATION = 0x0112


def decode_picture(picture: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the picture as uint8 `[H, W, C]` of the given shape, C = 1 (grey), 3 or 4 (alpha).

    It is turned as its EXIF says, scaled with antialiasing until it just covers H×W, and cropped
    around its centre. 16-bit pictures keep their upper range; where C has no alpha, transparent
    places show white; of an animation the first frame is taken. Raises ValueError for too many
    pixels, and what Pillow raises (OSError, SyntaxError and others) when it can't be read.
    """
    with open_picture_file(picture) as image:
        # A JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the time; twice the target's size
        # leaves the scaling below enough to average over. Other formats ignore this.
        enough = 2 * max(shape[:2])
        image.draft(None, (enough, enough))
        return _fit(upright(image), shape)


def fit_pixels(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns uint8 pixels `[h, w]` or `[h, w, 1|3|4]` as `decode_picture` does a picture's."""
    from PIL import Image

    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    return _fit(Image.fromarray(np.ascontiguousarray(flat)), shape)


def open_picture_file(picture: bytes) -> "Image.Image":
    """Returns the picture with only its header read; close it when done.

    Raises ValueError if it is no picture, or has more pixels than Pillow's `MAX_IMAGE_PIXELS` (89
    million), and what Pillow raises if its header is damaged.
    """
    from PIL import Image, UnidentifiedImageError

    _silence()
    try:
        image = Image.open(io.BytesIO(picture), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError("it is no picture" if picture else "it is empty") from None
    except Image.DecompressionBombError:
        image = None
    most = Image.MAX_IMAGE_PIXELS
    if image is None or (most is not None and image.width * image.height > most):
        raise ValueError(f"it has more than {most:,} pixels")
    return image


def upright(image: "Image.Image") -> "Image.Image":
    """Returns the picture, decoded, as its EXIF says that it is to be seen."""
    from PIL.Image import Transpose

    # Pillow turns a TIFF itself as it loads it, and says so from then on.
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
def _silence() -> None:
    from PIL.Image import DecompressionBombWarning

    # Between its limit and twice that Pillow only warns; here all beyond the limit is refused.
    warnings.filterwarnings("ignore", category=DecompressionBombWarning)


def _orientation(image: "Image.Image") -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    # Cameras and editors write EXIF that is broken in every way, around pictures that are not.
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
