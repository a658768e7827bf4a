"""The chapters as Jupyter notebooks, executed, with their outputs."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.files import replacing
from ddpm_jax.tutorial.chapters import Chapter

_NEEDED = ("jupytext", "nbclient", "ipykernel")
_LONGEST = 1_800
"""Seconds that a cell may take."""
_PYTHON = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


def executed(text: str, folder: Path) -> Any:
    """Returns a chapter, the text of its file, as a notebook that was executed in a folder."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata.update(_PYTHON)
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=_LONGEST, resources=resources).execute()


def write_notebooks(
    chosen: Sequence[Chapter], folder: Path, *, report: Callable[[str], None]
) -> list[Path]:
    """Executes chapters in a folder, writes each there as a notebook, and returns their paths.

    `report` gets a line before each. Raises UserError if the packages of the extra `tutorial` are
    not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise UserError("notebooks need more packages: pip install 'ddpm_jax[tutorial]'")
    import nbformat

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chapter in chosen:
        report(f"executing chapter {chapter.number}, {chapter.title}")
        notebook = executed(chapter.path.read_text(encoding="utf-8"), folder)
        written.append(folder / f"{chapter.path.stem}.ipynb")
        with replacing(written[-1]) as temporary:
            nbformat.write(notebook, temporary)
    return written
