"""The pictures of a folder or a zip, listed by name and read in place."""

import hashlib
import logging
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ddpm_jax.data.cache import file_state
from ddpm_jax.data.findings import listed
from ddpm_jax.data.formats import has_picture, suffixes
from ddpm_jax.errors import UserError

_log = logging.getLogger(__name__)

LARGEST_FILE = 2**29
"""Bytes of one picture's file; a larger file is not read."""

# A small flat bitmap may shrink a thousandfold. Above a few megabytes, only zip bombs do.
_LARGEST_RATIO, _ANY_RATIO_BYTES = 200, 2**24
_HEAD = 32
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


class Listing(NamedTuple):
    """The pictures of a folder or a zip: sorted names relative to it, with `/` between parts.

    `read` returns a picture's bytes and is thread-safe; it raises OSError, ValueError or errors of
    zipfile. `state` changes whenever a name, a size or a time of change does. `left_out` counts all
    other files by the reason why they are no examples.
    """

    names: list[str]
    read: Callable[[str], bytes]
    state: str
    left_out: dict[str, int]


def list_pictures(root: Path) -> Listing:
    """Returns the pictures below a folder or in a zip, without what systems keep beside them.

    The ending of a name says whether it is a picture; without an ending, the first bytes do.
    Nothing is extracted. Raises UserError if the folder or zip is missing, has no pictures, or is a
    zip bomb.
    """
    endings = suffixes()
    if root.is_dir():
        listing = _list_folder(root, endings)
    elif zipfile.is_zipfile(root) and root.suffix.lower() not in (".npz", *endings):
        listing = _list_zip(root, endings)
    else:
        raise _not_pictures(root)
    if not listing.names:
        holds = f"it holds {listed(listing.left_out)}" if listing.left_out else "it is empty"
        raise UserError(f"data.path: {root} has no pictures that can be read; {holds}")
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
    what = "is a file, not a folder; give a folder of pictures, or arrays as .npy or .npz"
    return UserError(f"data.path: {root} {what}")


# Thumbnails and waste baskets of Synology, QNAP, Windows, macOS and Linux, in small letters.
_SYSTEM_FOLDERS = ("@eadir", "#recycle", "@recycle", ".@__thumb", "$recycle.bin", "lost+found")
_SYSTEM_FOLDERS += ("system volume information", "__macosx", ".thumbnails")
_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
_NOT_BUILT_IN = {".heic": "pillow-heif", ".heif": "pillow-heif"}


def _is_set_aside(name: str) -> str | None:
    """Returns why a file is not meant as data: a system keeps it there, or it is hidden."""
    path = PurePosixPath(name)
    for part in path.parts[:-1]:
        if part.lower() in _SYSTEM_FOLDERS:
            return f"in {part}"
    if path.name.lower() in _SYSTEM_FILES:
        return "of the system"
    return "hidden" if any(part.startswith(".") for part in path.parts) else None


def _why_left_out(name: str, endings: frozenset[str], head: Callable[[], bytes]) -> str | None:
    """Returns why a file is no example, or None for a picture.

    `head` returns the first bytes of the file, and may raise OSError or errors of zipfile.
    """
    path = PurePosixPath(name)
    if aside := _is_set_aside(name):
        return aside
    ending = path.suffix.lower()
    if ending in endings:
        return None
    if ending.endswith(_ARCHIVES):
        return f"{ending} (an archive; unpack it)"
    if ending:
        plugin = _NOT_BUILT_IN.get(ending)
        return f"{ending} (needs pip install {plugin})" if plugin else ending
    try:
        return None if has_picture(head()) else "without an ending"
    except Exception:  # A damaged zip can raise any error.
        return "without an ending"


def _state(entries: Iterable[tuple[object, ...]]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr(entry).encode())
    return digest.hexdigest()


# --- a folder -------------------------------------------------------------------------------------


def _list_folder(root: Path, endings: frozenset[str]) -> Listing:
    found: dict[str, tuple[int, ...]] = {}
    left_out: Counter[str] = Counter()
    seen: set[str] = set()

    def warn(error: OSError) -> None:
        _log.warning("%s can't be listed (%s) and is skipped", error.filename, error.strerror)

    for folder, subfolders, files in os.walk(root, onerror=warn, followlinks=True):
        subfolders.sort()
        if _is_set_aside(Path(folder, "x").relative_to(root).as_posix()):
            # Links into what is left out, and out of it, must not hide or show pictures.
            subfolders[:] = [each for each in subfolders if not Path(folder, each).is_symlink()]
        else:
            # Data sets are often linked into place, so links are followed, but never in a circle.
            real = os.path.realpath(folder)
            if real in seen:
                subfolders.clear()
                left_out["in folders that are linked twice"] += len(files)
                continue
            seen.add(real)
        for file in files:
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            size = _state_of(path)
            if size is None:
                left_out["pipe or device"] += 1
                continue
            why = _why_left_out(name, endings, lambda path=path: _head(path))
            if why is None:
                found[name] = size
            else:
                left_out[why] += 1
    names = sorted(found)

    def read(name: str) -> bytes:
        # The listed size can't be trusted: the file may have grown, or lie in /proc.
        with (root / name).open("rb") as file:
            picture = file.read(LARGEST_FILE + 1)
        if len(picture) > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes")
        return picture

    state = _state((name, *found[name]) for name in names)
    return Listing(names, read, state, dict(+left_out))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _state_of(path: Path) -> tuple[int, ...] | None:
    """Returns the state of a file; None for a pipe or a device."""
    try:
        return file_state(path) if stat.S_ISREG(path.stat().st_mode) else None
    # A broken link is listed, so that reading it reports its name.
    except OSError:
        return (-1, 0, 0)


# --- a zip ----------------------------------------------------------------------------------------


def _list_zip(root: Path, endings: frozenset[str]) -> Listing:
    try:
        state = file_state(root)
        archive = zipfile.ZipFile(root)
    except Exception as error:
        advice = "copy or download it again"
        raise UserError(f"data.path: {root} can't be read as a zip ({error}); {advice}") from None
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    _refuse_bomb(root, entries, state[0])
    found: dict[str, zipfile.ZipInfo] = {}
    left_out: Counter[str] = Counter()

    def head(entry: zipfile.ZipInfo) -> bytes:
        with archive.open(entry) as file:
            return file.read(_HEAD)

    for entry in entries:
        # Some Windows programs write backslashes.
        name = entry.filename.replace("\\", "/")
        if _leads_out(name):
            why = "whose names lead out of the zip"
        elif name in found:
            why = "of a name that comes again"
        else:
            why = _why_left_out(name, endings, lambda entry=entry: head(entry))
        if why is not None:
            left_out[why] += 1
        if why is None or name in found:
            found[name] = entry  # the later of two equal names counts, as in unpacking

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

    return Listing(sorted(found), read, _state([state]), dict(left_out))


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
