"""The commit of a checkpoint: a folder counts only if it is complete.

On a disk it is written as `13000.tmp`. After its last byte is on disk, one rename gives it its bare
number. A bucket can't rename a folder. There it is written under its number, and counts once it
contains its checksums, which are written last and removed first. So a numbered folder without
checksums is unfinished in a bucket, and damaged on a disk. A folder that does not match its
checksums was altered in either.
"""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ddpm_jax.files import (
    Remote,
    StoragePath,
    StoreError,
    files_below,
    flush,
    is_foreign,
    remove,
    sha256,
)

SUMS, META = "checksums.json", "meta.json"


class Commit(Protocol):
    """How checkpoints in one folder are committed and removed."""

    def steps(self) -> list[int]:
        """Returns the steps that count, in rising order; reads no content."""
        ...

    def begin(self, step: int) -> None:
        """Creates the folder, and removes what a killed process left of earlier saves."""
        ...

    def written(self, step: int) -> StoragePath:
        """Returns the folder in which a step is written before it counts."""
        ...

    def end(self, step: int) -> None:
        """Commits what was written."""
        ...

    def drop(self, step: int) -> None:
        """Removes, if possible, the unfinished checkpoint of a step."""
        ...

    def old(self, newest: int) -> list[int]:
        """Returns the complete steps up to `newest`, in rising order; reads no content."""
        ...

    def remove(self, step: int) -> None:
        """Removes a committed step; an interrupted removal does not look like damage."""
        ...


def commit_in(folder: StoragePath) -> Commit:
    """Returns the way of committing that fits a folder."""
    return Marked(folder) if isinstance(folder, Remote) else Renamed(folder)


class Renamed:
    """Commits on a disk, by a rename."""

    def __init__(self, folder: Path):
        self._folder = folder

    def steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        folders = [item for item in self._folder.iterdir() if item.is_dir()]
        return sorted(int(item.name) for item in folders if _is_number(item.name))

    def begin(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for item in list(self._folder.iterdir()):
            if re.fullmatch(r"[0-9]+\.tmp(-old)?", item.name):
                with suppress(OSError):  # A file in it may still be open on another machine.
                    remove(item)

    def written(self, step: int) -> Path:
        return self._folder / f"{step}.tmp"

    def end(self, step: int) -> None:
        target, final = self.written(step), self._folder / str(step)
        _put_checksums(target)
        # Orbax flushes its own files.
        for written in (*(each for each in target.iterdir() if each.is_file()), target):
            flush(written)
        if final.exists():  # Altered, so the resume ignored it.
            remove(final)
        target.rename(final)
        flush(self._folder)

    def drop(self, step: int) -> None:
        with suppress(OSError):
            remove(self.written(step))

    def old(self, newest: int) -> list[int]:
        found = [step for step in self.steps() if step <= newest]
        return [step for step in found if (self._folder / str(step) / SUMS).is_file()]

    def remove(self, step: int) -> None:
        remove((self._folder / str(step)).rename(self._folder / f"{step}.tmp-old"))


class Marked:
    """Commits in a bucket, by writing the checksums last."""

    def __init__(self, folder: Remote):
        self._folder = folder

    def steps(self) -> list[int]:
        return sorted(step for step in self._numbers() if self._mark(step).is_file())

    def _numbers(self) -> list[int]:
        return [int(item.name) for item in self._folder.glob("*") if _is_number(item.name)]

    def _mark(self, step: int) -> Remote:
        return self.written(step) / SUMS

    def begin(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in self._numbers():
            # A committed one of this number was altered, so the resume ignored it.
            if number == step or not self._mark(number).is_file():
                self.remove(number)

    def written(self, step: int) -> Remote:
        return self._folder / str(step)

    def end(self, step: int) -> None:
        _put_checksums(self.written(step))

    def drop(self, step: int) -> None:
        with suppress(OSError):
            if not self._mark(step).is_file():  # Perhaps only removing older ones failed.
                self.remove(step)

    def old(self, newest: int) -> list[int]:
        return [step for step in self.steps() if step <= newest]

    def remove(self, step: int) -> None:
        self._mark(step).unlink(missing_ok=True)
        remove(self.written(step))


def _put_checksums(folder: StoragePath) -> None:
    # Read back from the store: the checksums must be of what was stored, not of what was sent.
    (folder / SUMS).write_text(json.dumps(_checksums(folder), indent=2) + "\n")


def _is_number(name: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]*", name) is not None


def _checksums(folder: StoragePath) -> dict[str, str]:
    found = {item.relative_to(folder).as_posix(): item for item in files_below(folder)}  # type: ignore[arg-type]
    own = sorted(name for name in found if name != SUMS and not is_foreign(name))
    return {name: sha256(found[name]) for name in own}


def damage(folder: StoragePath) -> str | None:
    """Returns what is wrong with a checkpoint's files, or None.

    Raises StoreError if the bucket can't be read.
    """
    try:
        expected = json.loads((folder / SUMS).read_text())
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        return f"{SUMS} can't be read ({first_line(error)})"
    if not isinstance(expected, dict) or not expected:
        return f"{SUMS} lists no files"
    for name, checksum in sorted(expected.items()):
        if is_foreign(name):  # Other versions listed what others had left there.
            continue
        try:
            found = sha256(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except StoreError:
            raise
        except (OSError, ValueError) as error:
            return f"{name} can't be read ({first_line(error)})"
        if found != checksum:
            return f"{name} differs from its checksum"
    try:  # A complete checkpoint under another number matches its checksums, too.
        said = json.loads((folder / META).read_text())["step"]
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{META} can't be read ({first_line(error)})"
    return None if said == int(folder.name) else f"it is the checkpoint of step {said}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if it has none."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
