"""`ddpm tutorial`."""

from dataclasses import dataclass
from pathlib import Path

from ddpm_jax.cli.arguments import options_of, settings_of
from ddpm_jax.cli.console import warn
from ddpm_jax.cli.flags import HELP, read
from ddpm_jax.errors import UserError
from ddpm_jax.tutorial.chapters import Chapter, chapters, run_chapter


@dataclass(frozen=True)
class Options:
    """Runs chapter NUMBER of the tutorial; without NUMBER it lists the chapters.

    A chapter takes up to a minute or two on two cores, and downloads nothing. Read it beside.
    """

    output: str = "tutorial"
    """Folder for the chapter's pictures, and for the runs that it trains: later chapters find
    them there."""
    notebooks: str | None = None
    """Write the chapters (or chapter NUMBER) as Jupyter notebooks with outputs into this folder."""


def run(words: list[str]) -> int:
    """Lists the chapters, runs one, or writes notebooks."""
    if words and words[-1] in HELP:
        read("ddpm tutorial [NUMBER]", ["--help"], settings_of(Options), Options.__doc__ or "")
    known, chosen = chapters(), None
    if words and not words[0].startswith("-"):
        chosen, words = _find(words[0], known), words[1:]
    options = options_of(Options, "ddpm tutorial", words)
    if options.notebooks is not None:
        from ddpm_jax.tutorial.notebooks import write_notebooks

        folder = Path(options.notebooks)
        for path in write_notebooks([chosen] if chosen else known, folder, report=warn):
            print(path)
    elif chosen is not None:
        _run(chosen, Path(options.output))
    else:
        print(_listed(known))
    return 0


def _find(word: str, known: list[Chapter]) -> Chapter:
    for chapter in known:
        if word == str(chapter.number):
            return chapter
    raise UserError(f"there is no chapter {word}; there are 1 … {len(known)}: ddpm tutorial")


def _run(chapter: Chapter, folder: Path) -> None:
    print(f"{chapter.title}: {chapter.about}\n{chapter.path}")
    run_chapter(chapter, folder)
    pictures = [*folder.glob(f"{chapter.number}-*.png"), *folder.glob(f"{chapter.number}-*.gif")]
    print("\n".join(str(path) for path in sorted(pictures)))


def _listed(known: list[Chapter]) -> str:
    lines = [f"{each.number}  {each.title}\n   {each.about}" for each in known]
    return "\n".join([*lines, "", "ddpm tutorial NUMBER runs a chapter; --help says more."])
