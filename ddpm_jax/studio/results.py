"""What was drawn or dropped: kept for a while, so that it can be saved and edited."""

import math
import secrets
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.data.formats import open_picture_file
from ddpm_jax.data.pictures import RangeError, decode
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.edited import Edited, write_edited
from ddpm_jax.sampling.files import animation_size, write_samples
from ddpm_jax.sampling.samples import Samples

_MOST = 12
"""Results that are kept."""
_MOST_FRAMES, _MOST_BYTES = 60, 2**24
"""Frames of an animation, and their bytes."""
_MOST_PIXELS = 2**24
"""Pixels of a dropped picture, 16 million."""
KINDS = {"png": "image/png", "gif": "image/gif", "npz": "application/octet-stream"}


class Result(NamedTuple):
    """One result."""

    samples: Samples
    edited: Edited | None = None


class Results:
    """The last results by their ids."""

    def __init__(self):
        self._kept: OrderedDict[str, Result] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, result: Result) -> str:
        """Keeps a result and returns its id; the oldest makes room."""
        name = secrets.token_hex(8)
        with self._lock:
            self._kept[name] = result
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return name

    def __getitem__(self, name: str) -> Result:
        found = self._kept.get(name)
        if found is None:
            raise UserError("this result is no longer kept; draw it again")
        return found

    def sample(self, place: tuple[str, int], shape: tuple[int, ...]) -> np.ndarray:
        """Returns a sample of a result, float32 in [-1, 1]; UserError unless it has that shape."""
        name, index = place
        samples = self[name].samples.samples
        if not 0 <= index < len(samples):
            raise UserError(f"sample {index} does not exist; there are {len(samples)}")
        if samples.shape[1:] != shape:
            raise UserError("the picture is from a run on pictures of another size; draw one here")
        return np.clip(samples[index], -1, 1)

    def saved(self, name: str, kind: str) -> bytes:
        """Returns a result as a file of one of KINDS."""
        result = self[name]
        if kind not in KINDS:
            raise UserError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
        if kind == "gif" and result.samples.frames is None:
            raise UserError("a dropped picture has no frames; save it as PNG")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"samples.{kind}"
            if kind == "npz" and result.edited is not None:
                write_edited(path, result.edited)
            else:
                write_samples(path, result.samples)
            return path.read_bytes()


class Frames:
    """Collects the frames of an animation while a chain runs."""

    def __init__(self, total: int, shape: tuple[int, ...]):
        size = animation_size(shape)
        room = _MOST_BYTES // (2 * size * math.prod(shape))
        self._size, self._each = size, math.ceil(total / max(2, min(_MOST_FRAMES, room)))
        self._total, self._kept = total, list[np.ndarray]()

    def see(self, done: int, x: np.ndarray) -> None:
        """Keeps the frame after `done` intervals, if it is one of the animation's."""
        if done % self._each == 0 or done == self._total:
            self._kept.append(x[: self._size].astype(np.float16))

    def stack(self) -> np.ndarray:
        """Returns the frames `[F, n, …]`."""
        return np.stack(self._kept).astype(np.float32)


def decoded(picture: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a dropped picture, scaled and cropped to a run's shape: float32 in [-1, 1].

    Raises UserError for what is no picture, for one of more than 16 million pixels, before it is
    decoded, and for runs that are not on pictures.
    """
    if len(shape) != 3 or shape[-1] not in (1, 3, 4):
        raise UserError("this run does not draw grey pictures or colours")
    try:
        with open_picture_file(picture) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise UserError(f"the picture has more than {_MOST_PIXELS:,} pixels; make it less")
        return np.asarray(to_unit(jnp.asarray(decode(picture, shape).pixels)))
    except UserError:
        raise
    except RangeError as error:
        raise UserError(f"the picture {error}") from None
    # A damaged file can make a decoder raise any error.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"the picture can't be read ({reason}); drop another one") from None
