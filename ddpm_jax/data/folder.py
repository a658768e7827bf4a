"""A folder of pictures as a data set."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ddpm_jax.config import FolderData
from ddpm_jax.data.pictures import SUFFIXES, decode_picture
from ddpm_jax.data.source import StreamSource
from ddpm_jax.errors import UserError

_log = logging.getLogger(__name__)


def open_folder(config: FolderData) -> StreamSource:
    """Returns the pictures below `config.path` in the order of their paths, uint8 `[H, W, C]`.

    Where every picture lies in a subfolder, the first-level subfolders are the classes; otherwise
    there are no labels. Pictures that can't be read are left out with one warning. Raises
    UserError if the folder is missing or has no readable picture.
    """
    if not config.path:
        raise UserError("data.path is not set; give a folder of pictures: --data.path FOLDER")
    root = Path(config.path).expanduser()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UserError(f"data.path: {root} {what}; give a folder of pictures")
    found = list(_pictures(root))
    if not found:
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise UserError(f"data.path: {root} has no pictures; supported are {kinds}")
    names = _classes(root, found)
    paths = _readable(root, found, config.channels)

    def read(indices: np.ndarray) -> list[tuple[np.ndarray, int]]:
        return [_read(root, paths[index], config.example_shape, names) for index in indices]

    return StreamSource(read, length=len(paths), shape=config.example_shape, class_names=names)


def _pictures(root: Path) -> Iterator[Path]:
    """Yields paths relative to root, sorted; hidden ones are other programs' business."""
    found, seen = [], set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        # Links are followed, as data sets are often linked into place, but never in a circle.
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        pictures = (name for name in files if name.lower().endswith(SUFFIXES))
        found += [Path(folder, name) for name in pictures if not name.startswith(".")]
    yield from sorted((path.relative_to(root) for path in found), key=Path.as_posix)


def _classes(root: Path, pictures: list[Path]) -> tuple[str, ...]:
    loose = sum(len(path.parts) == 1 for path in pictures)
    if loose == 0:
        return tuple(sorted({path.parts[0] for path in pictures}))
    if loose < len(pictures):
        _log.warning("%d pictures lie in %s itself: its subfolders are no classes", loose, root)
    return ()


def _readable(root: Path, pictures: list[Path], channels: int) -> list[Path]:
    """Leaves out what can't be decoded, so that a torn file shows at once and not days later."""
    from tqdm import tqdm

    def why(path: Path) -> str | None:
        try:
            # The smallest size lets a JPEG decode at an eighth.
            decode_picture(root / path, (1, 1, channels))
        # Decoders raise whatever a damaged file leads them into.
        except Exception as error:
            return " ".join(str(error).split()) or type(error).__name__
        return None

    with ThreadPoolExecutor(StreamSource.workers) as pool:
        checks = pool.map(why, pictures)
        bar = tqdm(checks, "checking", len(pictures), unit=" pictures", disable=None)
        broken = {path: reason for path, reason in zip(pictures, bar, strict=True) if reason}
    if broken:
        first, reason = next(iter(broken.items()))
        counted = f"{len(broken)} of {len(pictures)} pictures in {root} can't be read"
        if len(broken) == len(pictures):
            raise UserError(f"data.path: {counted}; the first is {first}: {reason}")
        named = ", ".join(str(path) for path in list(broken)[:5])
        _log.warning("%s and are left out (%s): %s", counted, named, reason)
    return [path for path in pictures if path not in broken]


def _read(
    root: Path, path: Path, shape: tuple[int, ...], names: tuple[str, ...]
) -> tuple[np.ndarray, int]:
    try:
        image = decode_picture(root / path, shape)
    except Exception as error:
        reason = " ".join(str(error).split())
        mend = "it was readable at the start; restore it and resume"
        raise UserError(f"data.path: {root / path} can't be read ({reason}); {mend}") from error
    return image, names.index(path.parts[0]) if names else 0
