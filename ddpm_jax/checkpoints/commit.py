"""When a checkpoint counts: a folder of files that is there whole, or not at all.

Locally it is written beside, as `13000.tmp`, and gets its bare number by one rename after its last
byte is on disk. A bucket can't rename a folder: there it is written under its number, and counts
once its checksums lie in it, which are put last and removed first. So a numbered folder without
checksums is unfinished in a bucket, and damaged on a disk; one that does not match them was
altered in either.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ddpm_jax.files import Remote, StoragePath, StoreError, files_below, remove

SUMS, META = "checksums.json", "meta.json"


class Commit(Protocol):
    """How checkpoints in one folder come to count, and how they cease to."""

    def steps(self) -> list[int]:
        """Returns the steps that count, in rising order; reads no content."""
        ...

    def begin(self, step: int) -> None:
        """Makes the folder, and room for a step: what a kill left in it is removed."""
        ...

    def written(self, step: int) -> StoragePath:
        """Returns where a step is written before it counts."""
        ...

    def end(self, step: int) -> None:
        """Makes what was written count."""
        ...

    def drop(self, step: int) -> None:
        """Removes what was written of a step that shall not count, if it can be."""
        ...

    def remove(self, step: int) -> None:
        """Removes a step that counts; half a removal does not look like damage."""
        ...


def commit_in(folder: StoragePath) -> Commit:
    """Returns how it is done in a folder."""
    return Marked(folder) if isinstance(folder, Remote) else Renamed(folder)


class Renamed:
    """On a disk."""

    def __init__(self, folder: Path):
        self._folder = folder

    def steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return sorted(int(item.name) for item in self._folder.iterdir() if item.name.isdecimal())

    def begin(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for torn in self._folder.glob("*.tmp*"):
            remove(torn)

    def written(self, step: int) -> Path:
        return self._folder / f"{step}.tmp"

    def end(self, step: int) -> None:
        target, final = self.written(step), self._folder / str(step)
        _put_checksums(target)
        if final.exists():  # An altered one that the resume passed over.
            remove(final)
        target.rename(final)

    def drop(self, step: int) -> None:
        with suppress(OSError):
            remove(self.written(step))

    def remove(self, step: int) -> None:
        remove((self._folder / str(step)).rename(self._folder / f"{step}.tmp-old"))


class Marked:
    """In a bucket."""

    def __init__(self, folder: Remote):
        self._folder = folder

    def steps(self) -> list[int]:
        return sorted(step for step in self._numbers() if self._mark(step).is_file())

    def _numbers(self) -> list[int]:
        return [int(item.name) for item in self._folder.glob("*") if item.name.isdecimal()]

    def _mark(self, step: int) -> Remote:
        return self.written(step) / SUMS

    def begin(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in self._numbers():
            # One of this number that counts is an altered one that the resume passed over.
            if number == step or not self._mark(number).is_file():
                self.remove(number)

    def written(self, step: int) -> Remote:
        return self._folder / str(step)

    def end(self, step: int) -> None:
        _put_checksums(self.written(step))

    def drop(self, step: int) -> None:
        with suppress(OSError):
            if not self._mark(step).is_file():  # It may be the removal of older ones that failed.
                self.remove(step)

    def remove(self, step: int) -> None:
        self._mark(step).unlink(missing_ok=True)
        remove(self.written(step))


def _put_checksums(folder: StoragePath) -> None:
    # Read back from where they lie: what counts is what was kept, not what was meant.
    (folder / SUMS).write_text(json.dumps(_checksums(folder), indent=2) + "\n")


def _checksums(folder: StoragePath) -> dict[str, str]:
    named = {_name(item, folder): item for item in files_below(folder)}
    return {name: _sha256(named[name]) for name in sorted(named.keys() - {SUMS})}


def _name(item: StoragePath, folder: StoragePath) -> str:
    return item.relative_to(folder).as_posix()  # type: ignore[arg-type]


def _sha256(path: StoragePath) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: StoragePath) -> str | None:
    """Says what is wrong with a checkpoint's files, or None; raises StoreError if it can't tell."""
    try:
        expected = json.loads((folder / SUMS).read_text())
        found = _checksums(folder)
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        return f"{SUMS} can't be read ({first_line(error)})"
    if not isinstance(expected, dict) or not expected:
        return f"{SUMS} lists no files"
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} does not belong to it"
        if expected[name] != found[name]:
            return f"{name} differs from its checksum"
    try:  # A whole checkpoint under another one's number matches its checksums too.
        said = json.loads((folder / META).read_text())["step"]
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{META} can't be read ({first_line(error)})"
    return None if said == int(folder.name) else f"it is the checkpoint of step {said}"


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, or its kind where it says nothing."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
