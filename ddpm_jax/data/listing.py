"""The pictures of a folder or a zip, listed by name and read in place."""

import hashlib
import logging
import os
import stat
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ddpm_jax.data.cache import file_state
from ddpm_jax.data.pictures import SUFFIXES
from ddpm_jax.errors import UserError

_log = logging.getLogger(__name__)

LARGEST_FILE = 2**29
"""Bytes of one picture's file; a larger file is not read."""

# A small flat bitmap may shrink a thousandfold. Above a few megabytes, only zip bombs do.
_LARGEST_RATIO, _ANY_RATIO_BYTES = 200, 2**24
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


class Listing(NamedTuple):
    """The pictures of a folder or a zip: sorted names relative to it, with `/` between parts.

    `read` returns a picture's bytes and is thread-safe; it raises OSError, ValueError or errors of
    zipfile. `state` changes whenever a name, a size or a time of change does.
    """

    names: list[str]
    read: Callable[[str], bytes]
    state: str


def list_pictures(root: Path) -> Listing:
    """Returns the pictures below a folder or in a zip, except hidden ones.

    Nothing is extracted. Raises UserError if the folder or zip is missing, has no pictures, or is a
    zip bomb.
    """
    if root.is_dir():
        listing, others = _list_folder(root)
    elif zipfile.is_zipfile(root) and root.suffix.lower() not in (".npz", *SUFFIXES):
        listing, others = _list_zip(root)
    else:
        raise _not_pictures(root)
    archives = sum(name.lower().endswith(_ARCHIVES) for name in others)
    inside = f"; unpack the {archives} archives in it" if archives else ""
    if not listing.names:
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise UserError(f"data.path: {root} has no pictures; supported formats are {kinds}{inside}")
    if archives:
        _log.warning("%s: %d archives in it are skipped; unpack them to use them", root, archives)
    return listing


def _not_pictures(root: Path) -> UserError:
    if not root.exists():
        return UserError(f"data.path: {root} does not exist; give a folder of pictures, or a zip")
    if root.suffix.lower() in (".npz", ".npy"):
        advice = "use configs/arrays.py, whose data is ArraysData"
        return UserError(f"data.path: {root} holds arrays, not pictures; {advice}")
    if root.suffix.lower() == ".zip":
        advice = "it may have been cut short; copy or download it again"
        return UserError(f"data.path: {root} can't be read as a zip; {advice}")
    return UserError(f"data.path: {root} is a file, not a folder; give a folder of pictures")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _state(entries: Iterable[tuple[object, ...]]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr(entry).encode())
    return digest.hexdigest()


# --- a folder -------------------------------------------------------------------------------------


def _list_folder(root: Path) -> tuple[Listing, list[str]]:
    found: dict[str, tuple[int, ...]] = {}
    others: list[str] = []
    seen: set[str] = set()

    def warn(error: OSError) -> None:
        _log.warning("%s can't be listed (%s) and is skipped", error.filename, error.strerror)

    for folder, subfolders, files in os.walk(root, onerror=warn, followlinks=True):
        # Data sets are often linked into place, so links are followed, but never in a circle.
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
        for file in files:
            name = Path(folder, file).relative_to(root).as_posix()
            if _is_hidden(file):
                continue
            size = _state_of(Path(folder, file)) if _is_picture(file) else None
            if size is None:
                others.append(name)
            else:
                found[name] = size
    names = sorted(found)

    def read(name: str) -> bytes:
        # The listed size can't be trusted: the file may have grown, or lie in /proc.
        with (root / name).open("rb") as file:
            picture = file.read(LARGEST_FILE + 1)
        if len(picture) > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes")
        return picture

    return Listing(names, read, _state((name, *found[name]) for name in names)), others


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _state_of(path: Path) -> tuple[int, ...] | None:
    """Returns the state of a file; None for a pipe or a device."""
    try:
        return file_state(path) if stat.S_ISREG(path.stat().st_mode) else None
    # A broken link is listed, so that reading it reports its name.
    except OSError:
        return (-1, 0, 0)


# --- a zip ----------------------------------------------------------------------------------------


def _list_zip(root: Path) -> tuple[Listing, list[str]]:
    try:
        state = file_state(root)
        archive = zipfile.ZipFile(root)
    except Exception as error:
        advice = "copy or download it again"
        raise UserError(f"data.path: {root} can't be read as a zip ({error}); {advice}") from None
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    _refuse_bomb(root, entries, state[0])
    found: dict[str, zipfile.ZipInfo] = {}
    others, outside = [], []
    for entry in entries:
        # Some Windows programs write backslashes.
        name = entry.filename.replace("\\", "/")
        if _leads_out(name):
            outside.append(name)
        elif not _is_hidden(name):
            if _is_picture(name):
                found[name] = entry  # the later of two equal names counts, as in unpacking
            else:
                others.append(name)
    if outside:
        count, first = len(outside), outside[0]
        _log.warning("%s: %d names lead out of the zip and are skipped (%s)", root, count, first)

    def read(name: str) -> bytes:
        entry = found[name]
        if entry.flag_bits & 1:
            raise ValueError("it is encrypted; make a zip without a password")
        ratio = entry.file_size / max(1, entry.compress_size)
        bomb = ratio > _LARGEST_RATIO and entry.file_size > _ANY_RATIO_BYTES
        if bomb or entry.file_size > LARGEST_FILE:
            raise ValueError(f"it unpacks to {entry.file_size:,} bytes, {ratio:,.0f} times as many")
        # zipfile unpacks no more than the stated bytes, and compares their checksum.
        return archive.read(entry)

    return Listing(sorted(found), read, _state([state])), others


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0]


def _refuse_bomb(root: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raises UserError for a zip whose entries overlap, or unpack to far too many bytes."""
    packed = sum(entry.compress_size for entry in entries)
    unpacked = sum(entry.file_size for entry in entries)
    if packed > size:
        why = f"its entries claim {packed:,} bytes, but it has {size:,}, so they overlap"
    elif unpacked > _LARGEST_RATIO * size and unpacked > 2 * LARGEST_FILE:
        why = f"it unpacks to {unpacked:,} bytes, {unpacked / size:,.0f} times its size"
    else:
        return
    raise UserError(f"data.path: {root} is a zip bomb ({why}); make a new zip from the pictures")
