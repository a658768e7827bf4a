"""Which chapters there are, and how one is run."""

import contextlib
import runpy
from pathlib import Path
from typing import Any, NamedTuple


class Chapter(NamedTuple):
    """One chapter, as the first lines of its file describe it."""

    number: int
    title: str
    about: str
    """One line."""
    path: Path


def chapters() -> list[Chapter]:
    """Returns all chapters in the order in which they are read."""
    return [_chapter(path) for path in sorted(Path(__file__).parent.glob("[0-9]*.py"))]


def _chapter(path: Path) -> Chapter:
    # A cell of text that has the title, an empty line, and the line about it.
    _, title, _, about, *_ = path.read_text(encoding="utf-8").splitlines()
    number = int(path.stem.partition("_")[0])
    return Chapter(number, title.removeprefix("# # "), about.removeprefix("# "), path)


def run_chapter(chapter: Chapter, folder: Path) -> dict[str, Any]:
    """Runs a chapter in a folder, which gets its pictures and runs, and returns its variables."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        return runpy.run_path(str(chapter.path))
