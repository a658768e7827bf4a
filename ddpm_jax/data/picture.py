"""One picture as a data set of length 1; a batch holds several copies of it."""

import dataclasses
import io

import numpy as np

from ddpm_jax.config import Config, PictureData
from ddpm_jax.data.pictures import decode_picture, open_picture_file, upright
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.files import local_path


def open_picture(config: PictureData) -> ArraySource:
    """Returns the picture as the only example, uint8 `[H, W, C]`, without labels.

    It is scaled and cropped if the config's size is not its own. Raises UserError if the picture is
    missing or can't be read, or if the config has no size (see `resolve`).
    """
    shape = config.example_shape
    try:
        pixels = decode_picture(read_picture(config), shape)
    # A damaged file can make a decoder raise any error.
    except Exception as error:
        raise _unreadable(config, error) from error
    return ArraySource(pixels[None])


def resolve(config: Config) -> Config:
    """Returns the config with the picture's own size instead of None; other configs are unchanged.

    The result describes the network's input without the picture. Raises UserError if the picture
    can't be read, or if the network can't take its size.
    """
    data = config.data
    if not isinstance(data, PictureData) or data.image_size is not None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(data, image_size=_own_size(data)))


def _own_size(config: PictureData) -> tuple[int, int]:
    try:
        with open_picture_file(read_picture(config)) as image:
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
