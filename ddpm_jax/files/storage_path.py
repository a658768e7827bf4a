"""What a path is, and writing so that a kill leaves the old file or the new one, never half."""

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
    """Returns what a path given as text is. Raises UserError for a URL that is none of a bucket."""
    if not isinstance(given, str):
        return given
    return Remote(given) if "://" in given else Path(given)


def files_below(folder: StoragePath) -> list[StoragePath]:
    """Returns all files in a folder and in its folders, in no order."""
    if isinstance(folder, Remote):
        return [*folder.files()]
    return [item for item in folder.rglob("*") if item.is_file()]


def remove(folder: StoragePath) -> None:
    """Removes a folder with all that is in it; raises OSError if it can't."""
    if isinstance(folder, Remote):
        folder.remove_all()
    else:
        shutil.rmtree(folder)


def cache_folder() -> Path | None:
    """Returns $DDPM_JAX_CACHE, None if that is empty; else ddpm_jax in the user's cache."""
    given = os.environ.get("DDPM_JAX_CACHE")
    if given is not None:
        return Path(given).expanduser() if given else None
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddpm_jax"


@contextmanager
def replacing(path: str | StoragePath) -> Iterator[Path]:
    """Gives a local path to write to, and puts what was written there in the place of `path`.

    What leaves nothing there only tries whether something could be put. Raises UserError, leaving
    an older file as it was, if it can't.
    """
    path = storage_path(path)
    try:
        with _uploaded(path) if isinstance(path, Remote) else _renamed(path) as beside:
            yield beside
    except StoreError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        mend = "choose a folder that exists and is writable"
        raise UserError(f"{path} can't be written ({reason}); {mend}") from None


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    # The suffix stays last: writers choose the format by it.
    beside = path.with_name(_beside(path))
    try:
        yield beside
        if beside.exists():
            os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink()


@contextmanager
def _uploaded(path: Remote) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ddpm-") as folder:
        written = Path(folder) / path.name
        yield written
        if written.exists():
            path.write_bytes(written.read_bytes())
        else:
            trial = path.with_name(_beside(path))
            trial.write_bytes(b"")
            trial.unlink()


def _beside(path: StoragePath) -> str:
    return f".{path.stem}.{os.getpid()}{path.suffix}"


@contextmanager
def exclusive(folder: StoragePath, *, needed: bool = True) -> Iterator[None]:
    """Makes a folder and holds it for this process alone; `needed` is False for all but the first.

    The hold ends with the process, however it ends. Raises UserError if another process of this
    machine holds it, or if it can't be made. A bucket is not held: an object that says so would
    outlive a process that is killed, and shut out the one that is started in its place.
    """
    if not needed or isinstance(folder, Remote):
        yield
        return
    lock = folder / ".lock"
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(lock.open("w"))
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"--workdir {folder} can't be written ({reason}); choose another"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is training in {folder}; wait for it, or choose another --workdir"
            ) from None
        yield
