"""The chapters are described, and become notebooks and pages."""

import re
import subprocess
import sys

import nbformat
import pytest

from ddpm_jax.tutorial.chapters import chapters
from ddpm_jax.tutorial.notebooks import write_notebooks

pytestmark = pytest.mark.usefixtures("share")
CHAPTERS = chapters()


def test_the_chapters_are_numbered_and_described():
    assert [chapter.number for chapter in CHAPTERS] == list(range(1, 10))
    for chapter in CHAPTERS:
        lines = chapter.path.read_text().splitlines()
        assert (lines[0], lines[2]) == ("# %% [markdown]", "#")
        assert len(chapter.title) < 40
        assert chapter.about.endswith(".")


def test_a_notebook_has_the_outputs_of_its_chapter(tmp_path, is_long):
    lines: list[str] = []
    chosen = CHAPTERS if is_long else CHAPTERS[1:2]
    written = write_notebooks(chosen, tmp_path, report=lines.append)
    assert len(lines) == len(chosen)
    for path, chapter in zip(written, chosen, strict=True):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.cells[0].source.startswith(f"# {chapter.title}")
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        shown = sum("image/png" in out.get("data", {}) for cell in code for out in cell.outputs)
        assert shown == len(re.findall(r'"\d-[\w-]+\.png"', chapter.path.read_text()))


def test_the_pages_build_without_a_warning(tmp_path, is_long):
    if not is_long:
        pytest.skip("--long builds the pages")
    pytest.importorskip("sphinx", reason="pip install -e '.[docs]'")
    source = CHAPTERS[0].path.parent
    words = ["-W", "-q", "-c", str(source / "pages"), str(source), str(tmp_path)]
    subprocess.run([sys.executable, "-m", "sphinx", *words], check=True)
    assert "q_posterior" in (tmp_path / "pages" / "reference.html").read_text()
    assert len(list((tmp_path / "_images").glob("*.png"))) > 20
