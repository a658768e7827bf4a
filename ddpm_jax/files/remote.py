"""A path in a bucket of Google Cloud Storage, with the methods of pathlib.

A bucket has no folders, only objects with slashes in their names: a folder exists while it contains
an object. An object appears whole or not at all. Nothing is cached between two requests.
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
"""Bytes of one request when an object is read in parts."""


class StoreError(UserError, OSError):
    """The store can't be reached, or refuses access.

    It ends a command as a UserError does. Code that warns and continues catches it as an OSError.
    """


@functools.cache
def _store() -> Any:
    # Orbax reaches buckets through etils.epath, which prefers TensorFlow to gcsfs if it is
    # installed. Newer versions of TensorFlow can't read gs://.
    os.environ.setdefault("EPATH_USE_TF", "false")
    # Otherwise gcsfs first asks over gRPC whether the bucket is of a kind with real folders.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec.config
        import gcsfs  # noqa: F401 (fsspec's own error doesn't say how to install it)
    except ImportError:
        raise UserError("gs:// needs gcsfs: pip install 'ddpm_jax[gs]'") from None
    # Changes by other processes must be visible, here and in Orbax's own instance.
    for protocol in ("gs", "gcs"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    # gcsfs also logs a traceback for each error that it raises.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # The arguments of etils.epath, so that Orbax gets this instance and its login.
    return fsspec.filesystem("gcs", finalize_on_close=True)


class Remote:
    """gs://BUCKET/PATH; every method raises StoreError if the bucket is missing or unreachable.

    It is not an `os.PathLike`, because `open` would then create a local file.
    """

    def __init__(self, url: str):
        """Raises UserError if the URL is not gs://BUCKET or a path in one."""
        scheme, _, rest = url.partition("://")
        if scheme != "gs":
            raise UserError(f"{url}: a folder must be local, or gs://BUCKET/PATH")
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
        """The last part of the path."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return self._path.suffix

    @property
    def parent(self) -> "Remote":
        """The folder that contains it; a bucket is its own parent."""
        return self if len(self._path.parts) == 1 else self._at(self._path.parent)

    def with_name(self, name: str) -> "Remote":
        """Returns the path with another name."""
        return self._at(self._path.with_name(name))

    def with_suffix(self, suffix: str) -> "Remote":
        """Returns the path with another suffix."""
        return self._at(self._path.with_suffix(suffix))

    def relative_to(self, folder: "Remote") -> PurePosixPath:
        """Returns the path relative to a folder."""
        return self._path.relative_to(folder._path)

    def absolute(self) -> "Remote":
        """Returns itself; `resolve` does the same."""
        return self

    resolve = absolute

    # --- queries ---

    def is_file(self) -> bool:
        """Whether the path is an object."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether the path contains objects."""
        return self._kind() == "directory"

    def exists(self) -> bool:
        """Whether it is an object or a folder."""
        return self._kind() is not None

    def _kind(self) -> str | None:
        if len(self._path.parts) == 1:
            self.check_access()
            return "directory"
        with suppress(FileNotFoundError), self._request() as store:
            return store.info(str(self))["type"]
        return None

    def iterdir(self) -> Iterator["Remote"]:
        """Yields the contents of the folder; raises FileNotFoundError if there are none."""
        with self._request() as store:
            found = store.ls(str(self), detail=False)
        return (self._at(PurePosixPath(name)) for name in found)

    def glob(self, pattern: str) -> Iterator["Remote"]:
        """Yields the contents whose names match the pattern (no slashes), in any order."""
        with suppress(FileNotFoundError):
            yield from (item for item in self.iterdir() if fnmatchcase(item.name, pattern))

    def files(self) -> list["Remote"]:
        """Returns every object below it, except the empty ones that some tools make for folders."""
        with self._request() as store:
            found = store.find(str(self))
        return [self._at(PurePosixPath(name)) for name in found if not name.endswith("/")]

    # --- content ---

    def read_bytes(self) -> bytes:
        """Returns the content; raises FileNotFoundError if there is no such object."""
        with self._request() as store:
            return store.cat_file(str(self))

    def read_text(self, errors: str = "strict") -> str:
        """Returns the decoded content; raises FileNotFoundError if there is no such object."""
        return self.read_bytes().decode(errors=errors)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Opens the object to read bytes, a part at a time."""
        if mode != "rb":
            raise ValueError(f"{self} can't be opened as {mode!r}: an object is only written whole")
        with self._request() as store:
            size = store.info(str(self))["size"]
        return io.BufferedReader(_Parts(self, size), _READ)

    def read_range(self, start: int, end: int) -> bytes:
        """Returns bytes `start` … `end` - 1."""
        with self._request() as store:
            return store.cat_file(str(self), start=start, end=end)

    def write_bytes(self, data: bytes) -> None:
        """Writes the whole object; replaces an older one."""
        with self._request() as store:
            store.pipe_file(str(self), data)

    def write_text(self, text: str) -> None:
        """Writes the whole object; replaces an older one."""
        self.write_bytes(text.encode())

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        with suppress(*([FileNotFoundError] if missing_ok else [])), self._request() as store:
            store.rm_file(str(self))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Only checks that the bucket exists: a bucket has no folders to make."""
        del parents, exist_ok
        self.check_access()

    def remove_all(self) -> None:
        """Removes every object below it."""
        names = [str(item) for item in self.files()]
        # Removing several at once takes these letters for patterns, of other names too.
        odd = [name for name in names if {*name} & {*"*?[]"}]
        plain = sorted({*names} - {*odd})
        with self._request() as store:
            for name in odd:
                store.rm_file(name)
            if plain:
                store.rm(plain)

    # --- errors ---

    def check_access(self) -> None:
        """Raises StoreError if the bucket is missing or this account may not list it."""
        try:
            with self._translated_errors():
                _store().call("GET", "b/{}/o", self.bucket, maxResults=1)
        except FileNotFoundError:
            raise StoreError(
                f"the bucket gs://{self.bucket} does not exist; "
                f"make it: gcloud storage buckets create gs://{self.bucket}"
            ) from None

    @contextmanager
    def _request(self) -> Iterator[Any]:
        try:
            with self._translated_errors():
                yield _store()
        except FileNotFoundError:
            self.check_access()  # The store's answer is the same for a missing bucket.
            missing = errno.ENOENT
            raise FileNotFoundError(missing, os.strerror(missing), str(self)) from None

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # Each of gcsfs, aiohttp, requests and google.auth has its own.
            raise StoreError(self.explain(error)) from None

    def explain(self, error: Exception) -> str:
        """Returns one line about an error of gcsfs or TensorStore: what happened and what to do.

        Errors of a login are not quoted, because they may contain keys.
        """
        where = f"gs://{self.bucket}"
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        code = getattr(error, "code", None)
        if code == 403 or message.startswith(("Forbidden", "PERMISSION_DENIED")):
            return (
                f"{where} refuses this account; give it access: gcloud storage buckets "
                f"add-iam-policy-binding {where} --member=user:NAME "
                "--role=roles/storage.objectUser"
            )
        login = type(error).__module__.startswith("google.auth")
        if code == 401 or login or message.startswith("UNAUTHENTICATED"):
            return (
                f"{where} needs a login: run gcloud auth application-default login, or set "
                "GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account"
            )
        return f"{where} can't be reached ({message[:200]}); try again later"


class _Parts(io.RawIOBase):
    """The bytes of an object as a file, read from the beginning."""

    def __init__(self, path: Remote, size: int):
        self._path, self._size, self._position = path, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        if end == self._position:
            return 0
        part = self._path.read_range(self._position, end)
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)
