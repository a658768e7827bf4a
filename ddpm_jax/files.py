"""Writing files so that a kill at any moment leaves the old one or the new one, never half."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddpm_jax.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and puts what was written in its place.

    Raises UserError, leaving an older file as it was, if it can't be written.
    """
    path = Path(path)
    # The suffix stays last: writers choose the format by it.
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"can't write {path}: {reason}; choose another path") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Raises UserError now if `path` can't be written later, when the work would be lost."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"can't write {path}: it is a folder; name a file in it")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"can't write {path}: {reason}; choose another path") from None
    beside.unlink()
