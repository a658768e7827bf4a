"""Paths, and writing files so that a kill leaves the old file or the new one, never half of one."""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ddpm_jax.errors import UserError
from ddpm_jax.files.remote import Remote, StoreError

StoragePath = Path | Remote
"""A path in a local folder or in a bucket."""


def storage_path(given: str | StoragePath) -> StoragePath:
    """Returns the path that a text names; raises UserError for a URL other than gs://BUCKET."""
    if isinstance(given, Remote):
        return given
    return Remote(given) if isinstance(given, str) and "://" in given else local_path(given)


def local_path(given: str | os.PathLike[str]) -> Path:
    """Returns a local path with its `~` expanded; raises UserError if there is no such home."""
    try:
        return (given if isinstance(given, Path) else Path(given)).expanduser()
    except RuntimeError:
        raise UserError(f"{given}: its ~ names no user's home; write the folder out") from None


def as_text(name: str) -> str:
    """Returns a file's name with each byte that is not UTF-8 written out, as in `caf\\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def files_below(folder: StoragePath) -> list[StoragePath]:
    """Returns all files in a folder and its subfolders, in any order."""
    if isinstance(folder, Remote):
        return [*folder.files()]
    return [item for item in folder.rglob("*") if item.is_file()]


def remove(folder: StoragePath) -> None:
    """Removes a folder and its contents; of a link only the link. Raises OSError if that fails."""
    if isinstance(folder, Remote):
        folder.remove_all()
    elif folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def flush(path: Path) -> None:
    """Waits until a local file, or a folder's list of files, is on the disk, if the system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(path: StoragePath) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path | None:
    """Returns $DDPM_JAX_CACHE, or None if it is empty; by default ddpm_jax in the user's cache.

    None too for a user without a home, as services and containers have.
    """
    given = os.environ.get("DDPM_JAX_CACHE")
    if given is not None:
        return local_path(given) if given else None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddpm_jax"
    except RuntimeError:
        return None


@contextmanager
def replacing(path: str | StoragePath) -> Iterator[Path]:
    """Yields a local path to write to; on exit, the file written there replaces `path`.

    If nothing was written, this only checks that `path` is writable. Raises UserError if it is not,
    and keeps an older file unchanged.
    """
    path = storage_path(path)
    try:
        with _uploaded(path) if isinstance(path, Remote) else _renamed(path) as temporary:
            yield temporary
    except StoreError:
        raise
    except OSError as error:
        raise UserError(f"{path} can't be written ({reason(error)}); {mend(error)}") from None


def reason(error: OSError) -> str:
    """Returns the system's words for an error."""
    return error.strerror or str(error)


def mend(error: OSError) -> str:
    """Returns what to do about an answer of the system to reading or writing a file."""
    return _MENDS.get(error.errno or 0, "choose a folder that exists and is writable")


_MENDS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space there, or choose another disk"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files: ulimit -n 4096"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "check the disk or its mount, then try again"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "mend its links, which lead in a circle",
}


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    # The suffix stays last because writers choose the format by it.
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _uploaded(path: Remote) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ddpm-") as folder:
        written = Path(folder) / path.name
        yield written
        if written.exists():
            path.write_bytes(written.read_bytes())
        else:
            trial = path.with_name(_temporary_name(path))
            trial.write_bytes(b"")
            trial.unlink()


def _temporary_name(path: StoragePath) -> str:
    return f".{path.stem}.{os.getpid()}{path.suffix}"


@contextmanager
def exclusive(
    folder: StoragePath, *, report: Callable[[str], None], needed: bool = True
) -> Iterator[None]:
    """Creates a folder and locks it for this process; does nothing unless `needed`.

    The lock ends when the process ends, in any way. Raises UserError if another process on this
    machine holds the lock, or if the folder can't be created. If the file system has no locks,
    `report` gets a line. A bucket is not locked: a lock object would outlive a killed process and
    block the process that replaces it.
    """
    if not needed or isinstance(folder, Remote):
        yield
        return
    lock = folder / ".lock"
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(lock.open("w"))
        except OSError as error:
            why = reason(error)
            advice = "choose another" if error.errno not in _MENDS else mend(error)
            raise UserError(f"the run folder {folder} can't be written ({why}); {advice}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # Some network disks say EACCES for a held lock.
            raise UserError(
                f"another process is training in {folder}; wait for it, or choose another folder"
            ) from None
        except OSError as error:
            report(
                f"{folder} can't be locked ({reason(error)}): "
                "make sure that no other process trains there"
            )
        yield
