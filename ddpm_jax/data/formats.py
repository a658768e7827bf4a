"""Which files Pillow reads as pictures, and how one is opened: by its content, then its ending."""

import functools
import importlib
import io
import warnings
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

# Pillow starts other programs for EPS and WMF, and decodes nothing of the others.
_NOT_READ = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")
# A name without an ending says nothing, so only contents count that nothing else begins with.
_CERTAIN = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "HEIF")
_EXIF_ORIENTATION = 0x0112


def suffixes() -> frozenset[str]:
    """Returns the endings of the pictures that Pillow and its plugins read here, as ".png"."""
    from PIL import Image

    _register_heif()
    readable = _readable()
    found = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in found if kind in readable)


def has_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 16 or more, is surely a picture."""
    from PIL import Image

    readable = _readable()
    accepts = [Image.OPEN[kind][1] for kind in _CERTAIN if kind in readable]
    # A message instead of True says that this Pillow was built without the decoder.
    return any(accept is not None and accept(head) is True for accept in accepts)


def open_picture_file(picture: bytes, name: str = "") -> "Image.Image":
    """Returns the picture after reading only its header; close it when done.

    Its content decides its format; the ending of `name` only admits formats that have no mark of
    their own. Raises ValueError if it is not a picture or has more pixels than Pillow's
    `MAX_IMAGE_PIXELS` (89 million), and Pillow's errors if its header is damaged.
    """
    from PIL import Image, UnidentifiedImageError

    _silence_warning()
    _register_heif()
    readable = _readable()
    unmarked = Image.registered_extensions().get(PurePosixPath(name).suffix.lower())
    formats = [k for k in readable if Image.OPEN[k][1] is not None]
    formats += [k for k in readable if k == unmarked and k not in formats]
    try:
        image = Image.open(io.BytesIO(picture), formats=formats)
    except UnidentifiedImageError:
        raise ValueError("it is not a picture" if picture else "it is empty") from None
    except Image.DecompressionBombError:
        image = None
    most = Image.MAX_IMAGE_PIXELS
    if image is None or (most is not None and image.width * image.height > most):
        raise ValueError(f"it has more than {most:,} pixels")
    return image


def count_pages(image: "Image.Image") -> int:
    """Returns the number of pages or frames; what a PSD stores behind its picture are layers."""
    return 1 if image.format == "PSD" else getattr(image, "n_frames", 1)


def has_pages(image: "Image.Image") -> bool:
    """Whether there is more than one page or frame; reads less of the file than counting them."""
    return image.format != "PSD" and getattr(image, "is_animated", False)


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
    }.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: "Image.Image") -> int:
    """Returns the orientation that EXIF states, 1 … 8; 1 is upright, and from 5 the sides swap."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    # Intact pictures often have broken EXIF data, which can raise any error.
    except Exception:
        return 1


def _readable() -> list[str]:
    """Returns Pillow's names of the formats that are read, and of those that plugins add."""
    from PIL import Image

    Image.init()
    return [kind for kind in Image.OPEN if kind not in _NOT_READ]


@functools.cache
def _register_heif() -> None:
    """Makes Pillow read HEIF, the format of telephones, if its plugin is installed."""
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError:
        return
    heif.register_heif_opener()


@functools.cache
def _silence_warning() -> None:
    from PIL.Image import DecompressionBombWarning

    # Pillow only warns up to twice its limit; we refuse everything above the limit ourselves.
    warnings.filterwarnings("ignore", category=DecompressionBombWarning)
