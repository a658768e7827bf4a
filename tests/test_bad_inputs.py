"""Bad files of every kind: exit code 2, one line that says how to fix it, nothing written or lost.

Each row makes its files in a folder of its own, gives the command, and what its line must say. The
rows are in bad_inputs/. What is wrong with words alone is in test_cli.py.
"""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest

from ddpm_jax import cli
from ddpm_jax.config import (
    ArraysData,
    Config,
    DiffusionConfig,
    MlpConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.training.train import train
from tests.bad_inputs import data, runs, weights

POINTS = Config(
    data=PointsData(size=50),
    model=MlpConfig(width=4, layers=1),
    diffusion=DiffusionConfig(timesteps=2),
    train=TrainConfig(steps=2, batch_size=8, log_every=2, save_every=2, preview_every=None),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)

TABLES = (
    data.FOLDERS,
    data.ZIPS,
    data.ARRAYS,
    data.PICTURES,
    data.LOOKS,
    runs.FILES,
    runs.CHECKPOINTS,
    runs.OTHER_LABELS,
    runs.EVALUATIONS,
    weights.WEIGHTS,
)
ROWS = {name: row for table in TABLES for name, row in table.items()}


def test_the_table_is_long_enough_and_has_no_row_twice():
    assert len(ROWS) == sum(map(len, TABLES)) >= 60


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps with one checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(POINTS, folder)
    return folder


@pytest.fixture(scope="module")
def labelled_run(tmp_path_factory):
    """A run of two steps with the classes a and b."""
    folder = tmp_path_factory.mktemp("labelled")
    runs.points(folder / "x.npz", "ab")
    source = ArraysData(path=str(folder / "x.npz"), holds="points")
    model = dataclasses.replace(POINTS.model, num_classes=2)
    train(dataclasses.replace(POINTS, data=source, model=model), folder / "run")
    return folder / "run"


def tree(root: Path) -> dict[str, str]:
    """Every path below a folder and what it holds."""
    found = {}
    for path in sorted(root.rglob("*")):
        kept = path.is_file() and not path.name.startswith(".lock")
        content = hashlib.sha256(path.read_bytes()).hexdigest() if kept else ""
        found[str(path.relative_to(root))] = content
    return found


@pytest.mark.parametrize("name", ROWS)
def test_it_is_told_in_one_line_and_nothing_is_written_or_lost(
    name, request, tmp_path, monkeypatch, capsys
):
    row, here = ROWS[name], tmp_path / "here"
    for folder in ("here", "cwd", "cache"):
        (tmp_path / folder).mkdir()
    if name in runs.CHECKPOINTS | runs.EVALUATIONS:
        shutil.copytree(request.getfixturevalue("run"), here / "run")
    elif name in runs.OTHER_LABELS:
        shutil.copytree(request.getfixturevalue("labelled_run"), here / "run")
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "cwd")
    row.make(here)
    before = tree(tmp_path)
    capsys.readouterr()
    code = cli.main([word.replace("{here}", str(here)) for word in row.words.split()])
    out, err = capsys.readouterr()
    assert code == 2, out + err
    *warnings, line = err.splitlines()
    assert line.startswith("ddpm: ")
    assert row.says.replace("{here}", str(here)) in line
    assert "Traceback" not in out + err
    # What is passed over on the way to the newest good checkpoint is named before, and so is what
    # reading the data changed.
    others = [each for each in warnings if " enlarged to " not in each]
    assert not others or name in runs.CHECKPOINTS, err
    assert tree(tmp_path) == before
