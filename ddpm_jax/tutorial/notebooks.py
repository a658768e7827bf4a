"""The chapters as Jupyter notebooks, executed, with their outputs."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from ddpm_jax.errors import UserError
from ddpm_jax.files import replacing
from ddpm_jax.tutorial.chapters import Chapter

_NEEDED = ("jupytext", "nbclient", "ipykernel")
_LONGEST = 1_800
"""Seconds that a cell may take."""


def write_notebooks(
    chosen: Sequence[Chapter], folder: Path, *, report: Callable[[str], None]
) -> list[Path]:
    """Executes chapters in a folder, and writes each there as a notebook with outputs.

    `report` gets a line before each. Returns the notebooks' paths. Raises UserError if the packages
    of the extra `tutorial` are not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise UserError("notebooks need more packages: pip install 'ddpm_jax[tutorial]'")
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chapter in chosen:
        report(f"executing chapter {chapter.number}, {chapter.title}")
        notebook = jupytext.read(chapter.path, fmt="py:percent")
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=_LONGEST, resources=resources).execute()
        path = folder / f"{chapter.path.stem}.ipynb"
        with replacing(path) as temporary:
            nbformat.write(notebook, temporary)
        written.append(path)
    return written
