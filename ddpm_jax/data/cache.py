"""Decoded arrays on disk: one file per source, used only if it is intact and up to date.

A file records the state of its source, and the checksums of the zip format cover each array. If the
source has changed, or the file is cut short or has a flipped bit, the source is decoded again.
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
# Increase this when a change of the decoder changes the pixels of a picture.
_DECODER = 1


class Origin(NamedTuple):
    """Where arrays come from: `source` is a name, and `state` changes with the source."""

    source: str
    state: str


def read_cache(origin: Origin) -> dict[str, np.ndarray] | None:
    """Returns the cached arrays of a source in exactly this state, or None."""
    path = _path(origin)
    if path is None or not path.is_file():
        return None
    try:
        # np.load does not close a file that it opened if it fails, so open it here.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if str(file[_STATE]) != _state(origin):
                return None
            return {name: file[name] for name in file.files if name != _STATE}
    # zipfile, zlib and NumPy each raise their own errors for a damaged file.
    except Exception as error:
        reason = " ".join(str(error).split())
        _log.warning("%s is damaged (%s); decoding again", path, reason)
        return None


def write_cache(origin: Origin, arrays: dict[str, np.ndarray]) -> None:
    """Caches arrays, replacing those of an older state; a failure is a warning, not an error.

    A kill at any moment leaves the old file or the new one.
    """
    path = _path(origin)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_STATE: np.array(_state(origin))}, **arrays)
    except (OSError, UserError) as error:
        _log.warning("the decoded data is not cached for the next start: %s", error)


def _path(origin: Origin) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(origin.source.encode(errors="surrogateescape")).hexdigest()[:32]
    return None if folder is None else folder / f"{name}.npz"


def _state(origin: Origin) -> str:
    import PIL

    return f"{origin.source} {origin.state} decoder {_DECODER}, Pillow {PIL.__version__}"
