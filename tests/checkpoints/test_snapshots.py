"""Snapshots: any length made of a few, resumes and rollbacks, and what can't be made."""

import shutil

import jax
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.snapshots import Lengths, snapshots_of
from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    MlpConfig,
    OptimizerConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.data.batches import Batches
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.pictures import Pictures
from ddpm_jax.training.train import train
from tests.tiny import assert_same, changed

pytestmark = pytest.mark.usefixtures("one_device")

KEPT = {"ema": "ema", "short": "power --sigma_rel 0.05", "long": "power --sigma_rel 0.1"}
TRACKED = (0.07, 0.15)
POINTS = Config(
    data=PointsData(size=200),
    model=MlpConfig(width=16, layers=2),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=10),
    optimizer=OptimizerConfig(learning_rate=3e-3),
    train=TrainConfig(
        steps=320,
        batch_size=16,
        steps_per_dispatch=8,
        averages=KEPT,
        log_every=160,
        save_every=160,
        snapshot_every=16,
        preview_every=None,
        loggers=(),
    ),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One device, and no pictures: they cost more than all the steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pictures, "finish", lambda self, state: None)
        one = make_mesh(1, devices=jax.devices()[:1])
        patch.setattr("ddpm_jax.training.train.make_mesh", lambda fsdp: one)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "snapshots"
    train(POINTS, folder)
    return folder


def arrays(run):
    """Every array of every snapshot."""
    snapshots = snapshots_of(run)
    found = {}
    for step in snapshots.steps():
        assert snapshots.is_good(step)
        layout = {
            f"ema.{name}": jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
                ddpm_jax.load(run).params,
            )
            for name in ("short", "long")
        }
        found[step] = snapshots.restore(step, layout)
    return found


def flat(params):
    leaves = [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(params)]
    return np.concatenate(leaves)


def test_a_rebuilt_average_is_the_one_that_training_would_have_tracked(run, tmp_path):
    names = {f"at_{k}": Choice("power", sigma_rel=s) for k, s in enumerate(TRACKED)}
    other = changed(POINTS, train={"averages": {"ema": "ema", **names}, "snapshot_every": None})
    train(other, tmp_path / "tracked")
    raw = flat(ddpm_jax.load(run, params="raw").params)
    assert_same(raw, flat(ddpm_jax.load(tmp_path / "tracked", params="raw").params))
    for name, length in zip(names, TRACKED, strict=True):
        rebuilt = flat(ddpm_jax.load(run, ema_length=length).params)
        tracked = flat(ddpm_jax.load(tmp_path / "tracked", params=name).params)
        off = np.linalg.norm(rebuilt - tracked)
        assert off < 1e-3 * np.linalg.norm(tracked)
        # Harder: of what averaging changes at all.
        assert off < 1e-2 * np.linalg.norm(tracked - raw)


def test_a_length_that_was_kept_is_given_back_at_any_checkpoint(run):
    for step in (160, 320):
        rebuilt = ddpm_jax.load(run, checkpoint=step, ema_length=0.05)
        kept = ddpm_jax.load(run, checkpoint=step, params="short")
        np.testing.assert_allclose(flat(rebuilt.params), flat(kept.params), atol=1e-6)
        assert rebuilt.name == "ema_length 0.05"


def test_snapshots_outlive_checkpoints_and_hold_the_averages_alone(run):
    assert Checkpoints(run).steps() == [160, 320]
    assert snapshots_of(run).steps() == list(range(16, 321, 16))
    names = (run / "snapshots/16/arrays.json").read_text()
    assert "ema.short." in names
    assert "ema.ema." not in names
    assert "params." not in names


def test_a_run_that_goes_on_from_before_writes_the_same_snapshots_again(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/320")
    # What another life could have left: it is not of this run.
    shutil.copytree(run / "snapshots/16", tmp_path / "run/snapshots/311")
    before = (tmp_path / "run/snapshots/160/arrays.json").stat().st_mtime_ns
    train(POINTS, tmp_path / "run")
    assert_same(arrays(tmp_path / "run"), arrays(run))
    assert snapshots_of(tmp_path / "run").steps() == snapshots_of(run).steps()
    assert (tmp_path / "run/snapshots/160/arrays.json").stat().st_mtime_ns == before


def test_a_rollback_leaves_no_snapshot_of_the_steps_that_it_leaves_out(monkeypatch, tmp_path):
    plain = Batches.__call__

    def poisoned(self, step):
        batch = plain(self, step)
        if step in (53, 54):
            batch.examples[0, 0] = np.nan
        return batch

    monkeypatch.setattr(Batches, "__call__", poisoned)
    few = {"on_nonfinite": "rollback", "max_nonfinite_steps": 2, "save_every": 40, "steps": 96}
    config = changed(POINTS, train={**few, "log_every": 8, "snapshot_every": 8})
    train(config, tmp_path / "whole")
    steps = snapshots_of(tmp_path / "whole").steps()
    assert steps == [8, 16, 24, 32, 40, 80, 88, 96]
    train(changed(config, train={"steps": 48}), tmp_path / "parts")
    train(config, tmp_path / "parts")
    assert snapshots_of(tmp_path / "parts").steps() == steps
    assert_same(arrays(tmp_path / "parts"), arrays(tmp_path / "whole"))


def test_a_damaged_snapshot_is_named_and_left_out(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/snapshots/304/meta.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"snapshots/304 is damaged: meta\.json differs"):
        found = ddpm_jax.load(tmp_path / "run", ema_length=0.15)
    whole = flat(ddpm_jax.load(run, ema_length=0.15).params)
    off = np.linalg.norm(flat(found.params) - whole)
    assert 0 < off < 1e-3 * np.linalg.norm(whole)


def test_the_lengths_that_are_named_as_possible_are(run):
    lengths = Lengths(Checkpoints(run), 320)
    possible = lengths.available()
    with pytest.raises(UserError) as told:
        ddpm_jax.load(run, ema_length=0.01)
    words = f"ema_length is 0.01; it must be in {possible[0]:g} … {possible[-1]:g}: 19 snapshots of"
    assert str(told.value).startswith(words)
    assert possible[0] < 0.035
    assert possible[-1] > 0.2
    for length in (possible[0], possible[-1]):
        ddpm_jax.load(run, ema_length=float(length))
    with pytest.raises(UserError, match=r"^ema_length is"):
        ddpm_jax.load(run, ema_length=float(possible[0]) - 0.001)


@pytest.mark.parametrize("length", [0.0, -1.0, 0.3, float("nan")])
def test_a_length_that_no_average_has_is_one_line(length, run):
    with pytest.raises(UserError, match=r"^ema_length is .*; it must be above 0 and at most"):
        ddpm_jax.load(run, ema_length=length)


def test_a_run_without_snapshots_is_told_how_to_get_them(run, tmp_path):
    for folder, averages in (("none", {"ema": "ema"}), ("late", KEPT)):
        config = changed(POINTS, train={"averages": averages, "snapshot_every": None, "steps": 8})
        train(config, tmp_path / folder)
        with pytest.raises(UserError, match="ema_length needs snapshots") as told:
            ddpm_jax.load(tmp_path / folder, ema_length=0.1)
        assert "--train.snapshot_every" in str(told.value)
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"ema_length is 0\.1; it must be left out with params raw"):
        ddpm_jax.load(run, ema_length=0.1, params="raw")


def test_the_length_of_an_average_never_changes_within_a_run(run):
    other = changed(POINTS, train={"averages": {**KEPT, "long": "power --sigma_rel 0.2"}})
    with pytest.raises(UserError, match=r"train\.averages\.long\.sigma_rel = 0\.1, and this"):
        train(other, run)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"averages": {"ema": "ema"}}, "train.snapshot_every is 16; it must be None without"),
        ({"snapshot_every": 0}, "train.snapshot_every is 0; it must be at least 1"),
        ({"snapshot_every": 12}, "a multiple of train.steps_per_dispatch, which is 8"),
        (
            {"averages": {"it": "power --sigma_rel 0.5"}},
            "train.averages.it.sigma_rel is 0.5: it must be above 0",
        ),
    ],
)
def test_settings_that_can_not_be_are_named(settings, words):
    with pytest.raises(UserError) as told:
        changed(POINTS, train=settings)
    assert words in str(told.value)


def test_a_snapshot_that_can_not_be_written_costs_a_line(monkeypatch, tmp_path):
    lines = []
    config = changed(POINTS, train={"steps": 160, "snapshot_every": 80})
    (tmp_path / "snapshots").write_text("in the way")
    result = train(config, tmp_path, report=lines.append)
    assert result.step == 160
    assert Checkpoints(tmp_path).newest_good() == 160
    assert [line for line in lines if "a snapshot was not written (" in line]
