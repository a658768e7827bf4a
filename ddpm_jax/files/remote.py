"""A path in a bucket of Google Cloud Storage, with pathlib's names.

A bucket has no folders, only objects with slashes in their names: a folder is there while an object
lies in it. An object appears whole or not at all. Nothing is remembered between two questions.
"""

import errno
import functools
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from ddpm_jax.errors import UserError

_READ = 16 * 2**20
"""Bytes that are fetched at once of an object that is read in parts."""


class StoreError(UserError, OSError):
    """The store could not be asked, or refused.

    A mistake of the user's where it ends a command, and an OSError for those who warn and go on.
    """


@functools.cache
def _store() -> Any:
    # Orbax comes to buckets through etils.epath: TensorFlow, where it is installed for preparing
    # data, would be taken before gcsfs, and newer ones can't read gs:// at all.
    os.environ.setdefault("EPATH_USE_TF", "false")
    # Else each bucket is asked over gRPC first whether it is of a kind that JSON can't do more for.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec.config
        import gcsfs  # noqa: F401 (fsspec would name it, and not how to get it)
    except ImportError:
        raise UserError("gs:// needs gcsfs: pip install 'ddpm_jax[gs]'") from None
    # What another process wrote or removed must be seen, here and in Orbax's own instance.
    for protocol in ("gs", "gcs"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    # It logs a traceback for each error that it raises as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # As etils.epath asks for it: Orbax then gets this one, and its login.
    return fsspec.filesystem("gcs", finalize_on_close=True)


class Remote:
    """gs://BUCKET/PATH. Every method raises StoreError if the bucket is missing or can't be asked.

    No `os.PathLike`: `open` would make a local file of it.
    """

    def __init__(self, url: str):
        """Raises UserError if the URL names no bucket of a store that checkpoints can lie in."""
        scheme, _, rest = url.partition("://")
        if scheme != "gs":
            raise UserError(f"{url}: a folder is a local one, or gs://BUCKET/PATH")
        self._path = PurePosixPath(*(part for part in rest.split("/") if part))
        if not self._path.parts:
            raise UserError(f"{url} names no bucket; write gs://BUCKET/PATH")

    def _at(self, path: PurePosixPath) -> "Remote":
        return Remote(f"gs://{path}")

    # --- names ---

    def __str__(self) -> str:
        return f"gs://{self._path}"

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._path == other._path

    def __lt__(self, other: "Remote") -> bool:
        return self._path < other._path

    def __hash__(self) -> int:
        return hash(self._path)

    def __truediv__(self, name: str) -> "Remote":
        return self._at(self._path / name)

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._path.parts[0]

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return self._path.suffix

    @property
    def parent(self) -> "Remote":
        """The folder that it is in; a bucket is its own."""
        return self if len(self._path.parts) == 1 else self._at(self._path.parent)

    def with_name(self, name: str) -> "Remote":
        """Returns its neighbour of that name."""
        return self._at(self._path.with_name(name))

    def with_suffix(self, suffix: str) -> "Remote":
        """Returns the path with another ending."""
        return self._at(self._path.with_suffix(suffix))

    def relative_to(self, folder: "Remote") -> PurePosixPath:
        """Returns the way from a folder to it."""
        return self._path.relative_to(folder._path)

    def absolute(self) -> "Remote":
        """Returns itself, as `resolve` does."""
        return self

    resolve = absolute

    # --- questions ---

    def is_file(self) -> bool:
        """Whether it is an object."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether objects lie below it."""
        return self._kind() == "directory"

    def exists(self) -> bool:
        """Whether it is either."""
        return self._kind() is not None

    def _kind(self) -> str | None:
        if len(self._path.parts) == 1:
            self.reach()
            return "directory"
        with suppress(FileNotFoundError), self._asked() as store:
            return store.info(str(self))["type"]
        return None

    def iterdir(self) -> Iterator["Remote"]:
        """Yields what lies in it; raises FileNotFoundError if nothing does."""
        with self._asked() as store:
            found = store.ls(str(self), detail=False)
        return (self._at(PurePosixPath(name)) for name in found)

    def glob(self, pattern: str) -> Iterator["Remote"]:
        """Yields what lies in it under such a name (no slashes), in any order."""
        with suppress(FileNotFoundError):
            yield from (item for item in self.iterdir() if fnmatchcase(item.name, pattern))

    def files(self) -> list["Remote"]:
        """Returns every object below it."""
        with self._asked() as store:
            return [self._at(PurePosixPath(name)) for name in store.find(str(self))]

    # --- content ---

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError if it isn't there."""
        with self._asked() as store:
            return store.cat_file(str(self))

    def read_text(self, errors: str = "strict") -> str:
        """Raises FileNotFoundError if it isn't there."""
        return self.read_bytes().decode(errors=errors)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Opens it for reading bytes, a part at a time."""
        if mode != "rb":
            raise ValueError(f"{self} can't be opened as {mode!r}: an object is put whole")
        with self._asked() as store:
            size = store.info(str(self))["size"]
        return io.BufferedReader(_Parts(self, size), _READ)

    def part(self, start: int, end: int) -> bytes:
        """Returns bytes `start` … `end` - 1."""
        with self._asked() as store:
            return store.cat_file(str(self), start=start, end=end)

    def write_bytes(self, data: bytes) -> None:
        """Puts the object, whole, in place of an older one."""
        with self._asked() as store:
            store.pipe_file(str(self), data)

    def write_text(self, text: str) -> None:
        """Puts the object, whole, in place of an older one."""
        self.write_bytes(text.encode())

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        with suppress(*([FileNotFoundError] if missing_ok else [])), self._asked() as store:
            store.rm_file(str(self))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Makes nothing, as folders come with their objects; but the bucket must be there."""
        del parents, exist_ok
        self.reach()

    def remove_all(self) -> None:
        """Removes every object below it."""
        names = [str(item) for item in self.files()]
        with self._asked() as store:
            if names:
                store.rm(names)

    # --- what can go wrong ---

    def reach(self) -> None:
        """Raises StoreError if the bucket does not exist, or this account may not list it."""
        try:
            with self._translated():
                _store().call("GET", "b/{}/o", self.bucket, maxResults=1)
        except FileNotFoundError:
            raise StoreError(
                f"the bucket gs://{self.bucket} does not exist; "
                f"make it: gcloud storage buckets create gs://{self.bucket}"
            ) from None

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        try:
            with self._translated():
                yield _store()
        except FileNotFoundError:
            self.reach()  # The store says the same of an object and of a bucket.
            missing = errno.ENOENT
            raise FileNotFoundError(missing, os.strerror(missing), str(self)) from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # gcsfs, aiohttp, requests and google.auth have kinds of theirs.
            raise StoreError(self.why(error)) from None

    def why(self, error: Exception) -> str:
        """Returns in one line what gcsfs or TensorStore met, and what to do.

        What a login says is not quoted: it may tell keys.
        """
        where = f"gs://{self.bucket}"
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        code = getattr(error, "code", None)
        if code == 403 or said.startswith(("Forbidden", "PERMISSION_DENIED")):
            return (
                f"{where} refuses this account; let it in: gcloud storage buckets "
                f"add-iam-policy-binding {where} --member=user:NAME "
                "--role=roles/storage.objectUser"
            )
        login = type(error).__module__.startswith("google.auth")
        if code == 401 or login or said.startswith("UNAUTHENTICATED"):
            return (
                f"{where} wants another login: gcloud auth application-default login, or set "
                "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key"
            )
        return f"{where} can't be reached ({said[:200]}); try again later"


class _Parts(io.RawIOBase):
    """The bytes of an object, as a file that is read from its beginning."""

    def __init__(self, path: Remote, size: int):
        self._path, self._size, self._place = path, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        end = min(self._place + len(buffer), self._size)
        if end == self._place:
            return 0
        part = self._path.part(self._place, end)
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)
