"""What `import ddpm_jax` offers to somebody in a notebook."""

import functools
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import ddpm_jax
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.reports.info import count_parameters
from ddpm_jax.training.train import train
from tests.tiny import TINY, changed

pytestmark = pytest.mark.usefixtures("one_device")

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n"

SESSION = """
import ddpm_jax
result = ddpm_jax.train("swiss_roll", "runs/roll", smoke=True)
run = result.run
drawn = run.sample(10, seed=0)
drawn.samples.shape, drawn.samples.dtype
picture = run.plot("samples", num=10)
shown = picture._repr_png_()
run = ddpm_jax.load("runs/roll")
again = run.sample(10, seed=0)
assert (result.step, run.step, shown[:4]) == (20, 20, b"\\x89PNG")
assert drawn.samples.shape == (10, 2) and (drawn.samples == again.samples).all()
"""


def fresh(code, cwd):
    """Runs code in a new interpreter; returns what it wrote."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", code]
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    return folder, fresh(SESSION, folder)


def test_ten_lines_train_sample_and_show(session):
    folder, ended = session
    assert ended.returncode == 0, ended.stderr
    assert (folder / "runs/roll/samples.png").is_file()


def test_nothing_is_printed_unasked(session):
    _, ended = session
    assert (ended.stdout, ended.stderr) == ("", "")


def test_the_import_is_light_and_lists_the_public_names(tmp_path):
    code = "import sys, ddpm_jax; print('jax' in sys.modules, *dir(ddpm_jax))"
    loaded, *names = fresh(code, tmp_path).stdout.split()
    assert loaded == "False"
    assert set(ddpm_jax.__all__) <= set(names)
    for name in ddpm_jax.__all__:
        assert getattr(ddpm_jax, name).__module__.startswith("ddpm_jax.")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = ddpm_jax.trian  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = {"steps": 2, "log_every": 1, "save_every": 2, "preview_every": None}
    train(changed(TINY, train=settings, sample={"num": 4}), folder)
    return folder


@pytest.fixture
def run(folder):
    return ddpm_jax.load(folder)


def test_a_run_says_what_it_is(run, folder):
    pattern = r"Run\('(.*)', step 2, ema, mlp ([\d,]+) parameters, 10 classes\)"
    found = re.fullmatch(pattern, repr(run))
    assert found, repr(run)
    assert found[1] == str(folder)
    assert int(found[2].replace(",", "")) == count_parameters(run.experiment)


def test_a_plot_is_a_picture_in_the_folder_or_where_it_is_asked_for(run, folder, tmp_path):
    picture = run.plot("samples", num=2)
    assert picture.path == folder / "samples.png"
    assert picture._repr_png_().startswith(PNG)
    assert picture._repr_html_() is None
    animation = run.plot("animation", num=2, output=tmp_path / "it.gif")
    assert repr(animation) == f"Picture('{tmp_path}/it.gif')"
    assert animation._repr_png_() is None
    assert animation._repr_html_().startswith('<img src="data:image/gif;base64,R0lGOD')
    with pytest.raises(ddpm_jax.UserError, match="no figure smaples"):
        run.plot("smaples")


def test_plots_are_of_the_open_checkpoint(run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        ddpm_jax.Run, "sample", lambda self, num, **_: (drawn.append(self), 1 / 0)[1]
    )
    with pytest.raises(ZeroDivisionError):
        run.plot("samples", output=tmp_path / "it.png")
    assert drawn == [run]


def test_an_evaluation_is_that_of_the_command(run):
    # Without a classifier, which would be trained first.
    one, other = (
        by(["frechet_distance"], num=32, seed=3, features="pixels")
        for by in (run.evaluate, functools.partial(evaluate, run))
    )
    assert one == other


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.copytree(copy / "checkpoints/2", copy / "checkpoints/4")
    (copy / "checkpoints/4/meta.json").write_text("{}")
    with pytest.warns(UserWarning, match="checkpoints/4 is damaged"):
        assert ddpm_jax.load(copy).step == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ddpm_jax.load(copy, checkpoint=2, params="raw").name == "raw"


def test_smoke_is_for_files(tmp_path):
    with pytest.raises(ddpm_jax.UserError, match="smoke is for config files"):
        ddpm_jax.train(TINY, tmp_path / "run", smoke=True)
    assert list(tmp_path.iterdir()) == []
