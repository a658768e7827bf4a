"""Why a checkpoint can't be written or read, in one line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ddpm_jax.checkpoints.commit import first_line
from ddpm_jax.errors import UserError
from ddpm_jax.files import Remote, StoragePath, StoreError, as_text


def require_path(folder: StoragePath, *, writes: bool = False) -> None:
    """Raises UserError for a folder whose name Orbax can't take, or can only read from.

    It takes some letters for patterns when it gathers what it wrote, and leaves that out.
    """
    shown = as_text(str(folder))
    if shown != str(folder) or "\\" in shown:
        need = "whose bytes are UTF-8 and without \\"
    elif writes and {*shown} & {*"[]*?"}:
        need = "without [ ] * ?"
    else:
        return
    raise UserError(f"{shown}: checkpoints need a path {need}; rename it, or choose another")


@contextmanager
def asked(folder: StoragePath) -> Iterator[None]:
    """Turns TensorStore's error about a bucket that can't be read into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(folder, Remote):
            raise
        raise StoreError(f"checkpoint {folder} can't be read ({folder.explain(error)})") from None


def reason_of(error: Exception, folder: StoragePath) -> str:
    """Returns why a write failed, in the operating system's words if it refused it."""
    if isinstance(folder, Remote):
        return str(error) if isinstance(error, UserError) else folder.explain(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return (isinstance(error, OSError) and error.strerror) or first_line(error)
