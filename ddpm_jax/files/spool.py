"""Files that grow, for a folder in which files can't."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ddpm_jax.files.remote import StoreError
from ddpm_jax.files.storage_path import StoragePath

_SECONDS = 30.0


class Spool:
    """A local folder to write in. Of a bucket it is a copy, whose changes are put there, whole.

    They are put now and then in the background, with `put`, and at the end. A local folder is
    written in directly, and `put` has nothing to do.
    """

    def __init__(self, there: StoragePath, fetch: Sequence[str], report: Callable[[str], None]):
        """`fetch` names the files that go on where they end; `report` is told a put that failed.

        Raises StoreError if the bucket can't be read.
        """
        self._there, self._report = there, report
        self._put: dict[str, tuple[int, int]] = {}
        self._complained = False
        self._one_at_a_time, self._end = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        if isinstance(there, Path):
            self.folder = there
            there.mkdir(parents=True, exist_ok=True)
            return
        self.folder = Path(tempfile.mkdtemp(prefix="ddpm-"))
        for name in fetch:
            with suppress(FileNotFoundError):
                (self.folder / name).write_bytes((there / name).read_bytes())
                self._put[name] = self._state(name)
        self._thread = threading.Thread(target=self._now_and_then, daemon=True)
        self._thread.start()

    def _now_and_then(self) -> None:
        while not self._end.wait(_SECONDS):
            self.put()

    def _state(self, name: str) -> tuple[int, int]:
        stat = (self.folder / name).stat()
        return stat.st_size, stat.st_mtime_ns

    def put(self) -> None:
        """Puts what changed; a store that refuses costs a line, and is tried again next time."""
        if isinstance(self._there, Path):
            return
        with self._one_at_a_time:
            try:
                for path in sorted(self.folder.rglob("*")):
                    name = path.relative_to(self.folder).as_posix()
                    # A name with a dot in front is one that is being written.
                    if not path.is_file() or path.name.startswith("."):
                        continue
                    state = self._state(name)  # Before it is read: what is added then comes next.
                    if self._put.get(name) != state:
                        (self._there / name).write_bytes(path.read_bytes())
                        self._put[name] = state
                self._complained = False
            except (StoreError, FileNotFoundError) as error:
                if not self._complained:
                    self._report(f"{self._there} can't be written: {error}; training goes on")
                self._complained = True

    def close(self) -> None:
        """Puts what is left, and removes the local copy."""
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        self.put()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._thread = None
