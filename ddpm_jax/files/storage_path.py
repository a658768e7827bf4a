"""Paths, and writing files so that a kill leaves the old file or the new one, never half of one."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ddpm_jax.errors import UserError
from ddpm_jax.files.remote import Remote, StoreError

StoragePath = Path | Remote
"""A path in a local folder or in a bucket."""


def storage_path(given: str | StoragePath) -> StoragePath:
    """Returns the path that a text names; raises UserError for a URL other than gs://BUCKET."""
    if not isinstance(given, str):
        return given
    return Remote(given) if "://" in given else Path(given)


def files_below(folder: StoragePath) -> list[StoragePath]:
    """Returns all files in a folder and its subfolders, in any order."""
    if isinstance(folder, Remote):
        return [*folder.files()]
    return [item for item in folder.rglob("*") if item.is_file()]


def remove(folder: StoragePath) -> None:
    """Removes a folder and its contents; raises OSError if that fails."""
    if isinstance(folder, Remote):
        folder.remove_all()
    else:
        shutil.rmtree(folder)


def cache_folder() -> Path | None:
    """Returns $DDPM_JAX_CACHE, or None if it is empty; by default ddpm_jax in the user's cache."""
    given = os.environ.get("DDPM_JAX_CACHE")
    if given is not None:
        return Path(given).expanduser() if given else None
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddpm_jax"


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
        reason = error.strerror or str(error)
        advice = "choose a folder that exists and is writable"
        raise UserError(f"{path} can't be written ({reason}); {advice}") from None


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
def exclusive(folder: StoragePath, *, needed: bool = True) -> Iterator[None]:
    """Creates a folder and locks it for this process; does nothing unless `needed`.

    The lock ends when the process ends, in any way. Raises UserError if another process on this
    machine holds the lock, or if the folder can't be created. A bucket is not locked: a lock object
    would outlive a killed process and block the process that replaces it.
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
            reason = error.strerror or str(error)
            raise UserError(
                f"the run folder {folder} can't be written ({reason}); choose another"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is training in {folder}; wait for it, or choose another folder"
            ) from None
        yield
