"""Files that grow, for a bucket, where no file can grow."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ddpm_jax.files.remote import StoreError
from ddpm_jax.files.storage_path import StoragePath

_SECONDS = 30.0


class Spool:
    """A local folder to write to; for a bucket, a copy whose changed files are uploaded whole.

    Files are uploaded in the background every half minute, by `upload`, and at the end. If the
    target is a local folder, it is written to directly and `upload` does nothing.
    """

    def __init__(self, target: StoragePath, download: Sequence[str], report: Callable[[str], None]):
        """`download` names the files to append to; `report` receives a line if an upload fails.

        Raises StoreError if the bucket can't be read.
        """
        self._target, self._report = target, report
        self._uploaded: dict[str, tuple[int, int]] = {}
        self._reported = False
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        if isinstance(target, Path):
            self.folder = target
            target.mkdir(parents=True, exist_ok=True)
            return
        self.folder = Path(tempfile.mkdtemp(prefix="ddpm-"))
        for name in download:
            with suppress(FileNotFoundError):
                (self.folder / name).write_bytes((target / name).read_bytes())
                self._uploaded[name] = self._state(name)
        self._thread = threading.Thread(target=self._upload_often, daemon=True)
        self._thread.start()

    def _upload_often(self) -> None:
        while not self._end.wait(_SECONDS):
            self.upload()

    def _state(self, name: str) -> tuple[int, int]:
        stat = (self.folder / name).stat()
        return stat.st_size, stat.st_mtime_ns

    def upload(self) -> None:
        """Uploads changed files; a failure is reported in one line and tried again next time."""
        if isinstance(self._target, Path):
            return
        with self._lock:
            try:
                for path in sorted(self.folder.rglob("*")):
                    name = path.relative_to(self.folder).as_posix()
                    # A name that begins with a dot is still being written. Those that nobody has
                    # used for days are cleaned away on some machines.
                    if not path.is_file() or path.name.startswith("."):
                        continue
                    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
                    state = self._state(name)  # Before reading: later additions go up next time.
                    if self._uploaded.get(name) != state:
                        (self._target / name).write_bytes(path.read_bytes())
                        self._uploaded[name] = state
                self._reported = False
            except (StoreError, FileNotFoundError) as error:
                if not self._reported:
                    self._report(f"{self._target} can't be written: {error}; training continues")
                self._reported = True

    def close(self) -> None:
        """Uploads the last changes and removes the local copy."""
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        self.upload()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._thread = None
