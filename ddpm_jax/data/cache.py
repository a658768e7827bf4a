"""Decoded arrays on disk: one file per source, used only if it is intact and up to date.

A file records the state of its source, and the checksums of the zip format cover each array. If the
source or the decoder has changed, or the file is cut short or has a flipped bit, the source is
decoded again.
"""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.files import cache_folder, replacing

_log = logging.getLogger(__name__)

_STATE = "state"
# Settings of data that change no decoded pixel.
_AFTER_DECODING = ("flip", "strict")


class Origin(NamedTuple):
    """Where arrays come from: `source` is a name, and `state` changes with the source."""

    source: str
    state: str


def origin_of(config: Any, root: Path, files: Iterable[Path]) -> Origin:
    """Returns the origin of what a data config decodes from `files`: all that it is made from.

    The name has every setting of the config, and the absolute path of `root`.
    """
    return stated_origin(config, root, [(str(path), *file_state(path)) for path in files])


def stated_origin(config: Any, root: Path, state: object) -> Origin:
    """Returns the origin with a state that the source knows itself."""
    settings = [
        (item.name, getattr(config, item.name))
        for item in dataclasses.fields(config)
        if item.name not in _AFTER_DECODING
    ]
    return Origin(f"{type(config).__name__} {settings} in {root.resolve()}", repr(state))


def file_state(path: Path) -> tuple[int, int, int]:
    """Returns a file's size and its times of change; raises OSError if it is not there.

    The time of the inode differs even if a copy kept the other one.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


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

    return f"{origin.source} {origin.state} decoder {_decoder()}, Pillow {PIL.__version__}"


@functools.cache
def _decoder() -> str:
    """Returns a digest of this room's source: what an older version decoded is not read."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
