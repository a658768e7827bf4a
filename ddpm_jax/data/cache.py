"""What was decoded once, kept on disk: one file a source, believed only if all of it checks.

A file says which state of its source it was made from, and a zip's checksums cover each array: a
changed source, a torn file or a flipped bit is noticed, and the arrays are made anew.
"""

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.files import cache_folder, replacing

_log = logging.getLogger(__name__)

_STATE = "state"
# Raised when decoding changes what it gives for the same picture.
_DECODER = 1


class Origin(NamedTuple):
    """Where arrays come from: `source` names it, and `state` is another text if it changed."""

    source: str
    state: str


def recall(origin: Origin) -> dict[str, np.ndarray] | None:
    """Returns the arrays that were kept of a source in this very state, or None."""
    path = _path(origin)
    if path is None or not path.is_file():
        return None
    try:
        # Opened here: what np.load opens it leaves open if it fails.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if str(file[_STATE]) != _state(origin):
                return None
            return {name: file[name] for name in file.files if name != _STATE}
    # zipfile, zlib and NumPy each raise their own for a damaged file, and all mean the same here.
    except Exception as error:
        why = " ".join(str(error).split())
        _log.warning("%s is damaged and is made again (%s)", path, why)
        return None


def keep(origin: Origin, arrays: dict[str, np.ndarray]) -> None:
    """Keeps arrays in place of those of an older state; a cache that can't be written is no error.

    A kill at any moment leaves the old file or the new one.
    """
    path = _path(origin)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_STATE: np.array(_state(origin))}, **arrays)
    except (OSError, UserError) as error:
        _log.warning("what was decoded is not kept for the next start: %s", error)


def _path(origin: Origin) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(origin.source.encode()).hexdigest()[:32]
    return None if folder is None else folder / f"{name}.npz"


def _state(origin: Origin) -> str:
    import PIL

    return f"{origin.source} {origin.state} decoder {_DECODER}, Pillow {PIL.__version__}"
