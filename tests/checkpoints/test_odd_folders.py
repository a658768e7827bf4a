"""Checkpoints under odd names, in part, and removed while they are read."""

import json
import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.checkpoints import commit
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    MlpConfig,
    PointsData,
    SampleConfig,
    ValidationConfig,
    override,
)
from ddpm_jax.config import TrainConfig as Train
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.run import load
from ddpm_jax.training.train import train
from tests.tiny import TINY

CONFIG = Config(
    data=PointsData(size=64),
    model=MlpConfig(width=8, layers=1),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=4),
    train=Train(steps=6, batch_size=8, save_every=2, preview_every=6, keep=9),
    sample=SampleConfig(clipping="none", num=4, batch_size=4),
    validation=ValidationConfig(share=0.25, every=2, keep_best="validation_loss"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(CONFIG, folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize("name", ["lr[1e-3]", "run?", "a*", "[", "a\\b"])
def test_a_name_under_which_orbax_would_lose_arrays_is_refused_before_anything(name, tmp_path):
    with pytest.raises(UserError, match=r"checkpoints need a path .*without .*; rename it"):
        train(CONFIG, tmp_path / name / "run")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["lr[1e-3]", "run?", "a*", "a b", "ä", "a#b%20"])
def test_a_run_is_read_under_any_name_to_which_it_was_moved(name, run):
    moved = run.rename(run.with_name(name))
    found = load(moved).sample(4, seed=1).samples
    assert np.isfinite(found).all()


def test_a_run_goes_on_though_its_best_checkpoint_is_damaged(run):
    best = {"step": 2, "name": "validation_loss", "value": 0.5, "scheduled": True}
    (run / "checkpoints/best.json").write_text(json.dumps(best))
    os.truncate(run / "checkpoints/2/meta.json", 100)
    lines: list[str] = []
    longer = override(CONFIG, {"train.steps": 8})
    assert train(longer, run, report=lines.append).step == 8
    assert any("checkpoint 2 is no longer the best" in line for line in lines)


def test_a_damaged_one_that_was_asked_for_is_told_with_the_others(run):
    os.truncate(run / "checkpoints/2/meta.json", 100)
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged: .* name another: 4, 6"):
        load(run, checkpoint=2, report=lambda line: None)


@pytest.fixture
def removed(monkeypatch):
    """Has a step removed when it is first read, as a run does that keeps few."""
    plain, seen = Checkpoints.restore, []

    def restore(self, step, layout):
        if not seen:
            shutil.rmtree(self.folder / str(step))
        seen.append(step)
        return plain(self, step, layout)

    monkeypatch.setattr(Checkpoints, "restore", restore)
    return seen


def test_a_checkpoint_that_goes_while_it_is_read_costs_nothing(run, removed):
    assert load(run).step == 4
    assert removed == [6, 4]


def test_one_that_was_asked_for_and_goes_is_a_line(run, removed):
    with pytest.raises(UserError, match=r"checkpoint 6 of .* was removed meanwhile"):
        load(run, checkpoint=6)


def test_one_that_goes_while_it_is_checked_is_not_called_damaged(run, monkeypatch):
    plain, lines = commit.damage, []

    def damage(folder):
        if folder.name == "6":
            shutil.rmtree(folder)
        return plain(folder)

    monkeypatch.setattr("ddpm_jax.checkpoints.checkpoint.damage", damage)
    assert Checkpoints(run, report=lines.append).newest_good() == 4
    assert lines == []


def test_all_of_a_checkpoint_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    done: list[str] = []
    plain = Path.rename
    monkeypatch.setattr(commit, "flush", lambda path: done.append(path.name))
    monkeypatch.setattr(Path, "rename", lambda a, b: done.append("rename") or plain(a, b))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"w": jnp.ones(3)}, TINY, keep=1, keep_every=None)
    checkpoints.close()
    assert sorted(done[:3]) == ["arrays.json", "checksums.json", "meta.json"]
    assert done[3:] == ["3.tmp", "rename", "checkpoints"]
