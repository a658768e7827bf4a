"""One picture as a data set of length 1; a batch holds several copies of it."""

import io
import logging

import numpy as np

from ddpm_jax.data.findings import Findings, range_error
from ddpm_jax.data.formats import open_picture_file, upright
from ddpm_jax.data.pictures import RangeError, decode
from ddpm_jax.data.settings import PictureData
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.files import local_path

_log = logging.getLogger(__name__)


def open_picture(config: PictureData) -> ArraySource:
    """Returns the picture as the only example, uint8 `[H, W, C]`, without labels.

    It is scaled and cropped if the config's size is not its own. Raises UserError if the picture is
    missing or can't be read, or if the config has no size (see `data.resolve`).
    """
    shape, name = config.example_shape, config.path or "flower.jpg"
    findings = Findings(name, shape, 1, span=config.range)
    try:
        decoded = decode(read_picture(config), shape, span=config.range, name=name)
    except RangeError as error:
        raise range_error(name, config.range, error) from None
    # A damaged file can make a decoder raise any error.
    except Exception as error:
        raise _unreadable(config, error) from error
    findings.add(0, decoded)
    findings.check()
    if changes := findings.changes():
        _log.warning("%s is %s", name, ", ".join(changes))
    return ArraySource(decoded.pixels[None])


def own_size(config: PictureData) -> tuple[int, int]:
    """Returns the picture's height and width; raises UserError if it can't be read."""
    try:
        with open_picture_file(read_picture(config), config.path or "") as image:
            width, height = upright(image).size
    except Exception as error:
        raise _unreadable(config, error) from error
    return height, width


def read_picture(config: PictureData) -> bytes:
    """Returns the encoded picture; raises UserError if the file is missing."""
    if config.path is None:
        return _flower()
    path = local_path(config.path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"data.path: {path} {what}; give a picture's file")
    return path.read_bytes()


def _flower() -> bytes:
    """Returns scikit-learn's flower.jpg, 427×640 in colour, as an encoded picture."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    file = io.BytesIO()
    Image.fromarray(np.asarray(load_sample_image("flower.jpg"))).save(file, "PPM")
    return file.getvalue()


def _unreadable(config: PictureData, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"data.path: {config.path} can't be read ({reason}); give another picture")
