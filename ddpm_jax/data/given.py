"""A picture that a person gives, to be edited: read as it is, never scaled or cropped."""

from typing import NamedTuple

import numpy as np

from ddpm_jax.data.formats import open_picture_file, upright
from ddpm_jax.data.pictures import ON_WHITE, RangeError, decode
from ddpm_jax.errors import UserError
from ddpm_jax.files import StoragePath


class GivenPicture(NamedTuple):
    """A picture and what its alpha says."""

    pixels: np.ndarray
    """uint8 `[H, W, C]`: C = 1 if all its colours are grey, and else 3."""
    transparent: np.ndarray | None
    """bool `[H, W]`: where it is less than half opaque; None if it is opaque everywhere."""
    changes: tuple[str, ...]
    """A phrase for each thing that reading lost, as "rounded to 256 levels"."""

    @property
    def size(self) -> str:
        """Height and width."""
        return "×".join(map(str, self.pixels.shape[:2]))


def read_given(path: StoragePath) -> GivenPicture:
    """Returns a picture of any size; raises UserError if the file is missing or can't be read."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}; give a picture's file")
    encoded = path.read_bytes()
    try:
        with open_picture_file(encoded, path.name) as image:
            width, height = upright(image).size
        decoded = decode(encoded, (height, width, 4), name=path.name)
    except RangeError as error:
        raise UserError(f"{path} {error}") from None
    # A damaged file can make a decoder raise any error.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} can't be read ({reason}); give another picture") from error
    colours, opaque = decoded.pixels[..., :3], decoded.pixels[..., 3]
    if (colours == colours[..., :1]).all():
        colours = colours[..., :1]
    transparent = None if (opaque == 255).all() else opaque < 128
    changes = tuple(each for each in decoded.changes if each != ON_WHITE)
    return GivenPicture(np.ascontiguousarray(colours), transparent, changes)
