"""Where files go, and writing them so that a kill leaves the old one or the new one, never half."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ddpm_jax.errors import UserError


def cache_folder() -> Path | None:
    """Returns $DDPM_JAX_CACHE, None if that is empty; else ddpm_jax in the user's cache."""
    given = os.environ.get("DDPM_JAX_CACHE")
    if given is not None:
        return Path(given).expanduser() if given else None
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddpm_jax"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and puts what was written there in its place.

    What leaves nothing beside only tries the folder. Raises UserError, leaving an older file as it
    was, if it can't be written.
    """
    path = Path(path)
    # The suffix stays last: writers choose the format by it.
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        if beside.exists():
            os.replace(beside, path)
    except OSError as error:
        reason = error.strerror or str(error)
        mend = "choose a folder that exists and is writable"
        raise UserError(f"{path} can't be written ({reason}); {mend}") from None
    finally:
        with suppress(OSError):
            beside.unlink()


@contextmanager
def exclusive(folder: Path, *, needed: bool = True) -> Iterator[None]:
    """Makes a folder and holds it for this process alone; `needed` is False for all but the first.

    The hold ends with the process, however it ends. Raises UserError if another process of this
    machine holds it, or if it can't be made.
    """
    if not needed:
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
