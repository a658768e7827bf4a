"""The chapters run, what they state holds, and they become notebooks and pages."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.tutorial.chapters import chapters, run_chapter
from ddpm_jax.tutorial.notebooks import write_notebooks
from ddpm_jax.tutorial.support import SHARE

pytestmark = pytest.mark.usefixtures("one_device", "share")
CHAPTERS = chapters()


@pytest.fixture(scope="module")
def is_long(request):
    return request.config.getoption("--long")


@pytest.fixture(scope="module")
def share(is_long):
    """All training steps and samples in the long form; else as few as there can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SHARE, "1" if is_long else "0")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all chapters are run, in their order, so that they share their runs."""
    return tmp_path_factory.mktemp("tutorial")


def learned(chapter, names):
    """Asserts what a chapter says or shows of networks that are trained to the end."""
    if chapter.number == 3:
        assert abs(names["ours"][-10:].mean() - 0.32) < 0.01
    if chapter.number == 4:
        assert names["from_samples"] < 0.05 < names["from_noise"]
        assert names["in_ten"]["dpmpp"] < names["in_ten"]["ddpm"]
    if chapter.number == 5:
        assert names["agreement"] > 0.9
    if chapter.number == 6:
        assert names["agreements"][1] >= names["agreements"][0]
        assert names["spreads"][1] < names["spreads"][0]
    if chapter.number == 7:
        assert names["error"] < 0.001
    if chapter.number == 8:
        values = names["measured"].values
        assert 1 < values["bits_per_dim"] < 6
        assert values["rate"] + values["distortion"] == pytest.approx(values["bits_per_dim"])


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.path.stem)
def test_a_chapter_runs(chapter, folder, is_long):
    names = run_chapter(chapter, folder)
    named = re.findall(r'"(\d-[\w-]+\.(?:png|gif))"', chapter.path.read_text())
    assert len(set(named)) == len(named)
    for name in named:
        assert name.startswith(f"{chapter.number}-")
        with Image.open(folder / name) as picture:
            assert np.asarray(picture.convert("L"), float).std() > 1  # It shows something.
    if is_long:
        learned(chapter, names)


def test_the_chapters_are_numbered_and_described():
    assert [chapter.number for chapter in CHAPTERS] == list(range(1, 10))
    for chapter in CHAPTERS:
        lines = chapter.path.read_text().splitlines()
        assert (lines[0], lines[2]) == ("# %% [markdown]", "#")
        assert len(chapter.title) < 40
        assert chapter.about.endswith(".")


def test_a_notebook_has_the_outputs_of_its_chapter(tmp_path, is_long):
    nbformat = pytest.importorskip("nbformat")
    lines = []
    chosen = CHAPTERS if is_long else CHAPTERS[1:2]
    for path, chapter in zip(
        write_notebooks(chosen, tmp_path, report=lines.append), chosen, strict=True
    ):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.cells[0].source.startswith(f"# {chapter.title}")
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        shown = sum("image/png" in out.get("data", {}) for cell in code for out in cell.outputs)
        assert shown == len(re.findall(r'"\d-[\w-]+\.png"', chapter.path.read_text()))
    assert len(lines) == len(chosen)


def test_the_pages_build_without_a_warning(tmp_path, is_long):
    if not is_long:
        pytest.skip("--long builds the pages")
    source = CHAPTERS[0].path.parent
    words = ["-W", "-q", "-c", str(source / "pages"), str(source), str(tmp_path)]
    subprocess.run([sys.executable, "-m", "sphinx", *words], check=True)
    page = (tmp_path / "pages" / "reference.html").read_text()
    assert "q_posterior" in page
    assert len(list((tmp_path / "_images").glob("*.png"))) > 20
