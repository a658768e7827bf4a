"""Rows with a state: an optimizer and an average from outside, and a history of losses."""

import jax
import numpy as np
import optax
import pytest

import ddpm_jax
from ddpm_jax.averages import AVERAGES
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import Choice, Config, DiffusionConfig, MlpConfig, PointsData, SampleConfig
from ddpm_jax.config import TrainConfig as Train
from ddpm_jax.data.batches import Batches
from ddpm_jax.diffusion.timestep_samplers import TIMESTEP_SAMPLERS
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.optimizers import OPTIMIZERS
from ddpm_jax.runtime import mesh as meshes
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.pictures import Pictures
from ddpm_jax.training.step import state_layout
from ddpm_jax.training.train import train
from tests.tiny import StepLoop, assert_same, changed

POINTS = Config(
    data=PointsData(size=50),
    model=MlpConfig(width=8, layers=2),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=10),
    train=Train(
        steps=16,
        batch_size=8,
        averages={"ema": Choice("ema", decay=0.9)},
        log_every=4,
        save_every=4,
        keep=9,
        preview_every=None,
        loggers=(),
    ),
    sample=SampleConfig(clipping="none", num=8, batch_size=8),
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(Pictures, "finish", lambda self, state: None)


@pytest.fixture
def one():
    return make_mesh(1, jax.devices()[:1])


def lion(*, beta1: float = 0.9, beta2: float = 0.99):
    return optax.scale_by_lion(beta1, beta2)


ROWS = {
    "optimizer": (OPTIMIZERS, "lion", lion, {"optimizer": {"method": "lion"}}),
    "average": (
        AVERAGES,
        "short",
        lambda: lambda step: 0.5,
        {"train": {"averages": {"ema": Choice("ema", decay=0.9), "short": "short"}}},
    ),
    "timestep sampler": (
        TIMESTEP_SAMPLERS,
        "importance",
        TIMESTEP_SAMPLERS["importance"],
        {"train": {"timestep_sampler": Choice("importance", history=2)}},
    ),
}


@pytest.fixture
def added(request, monkeypatch):
    """A config that uses a row from outside, by the kind of the row."""

    def add(kind):
        table, name, row, settings = ROWS[kind]
        monkeypatch.setitem(table, name, row)
        return changed(POINTS, **settings)

    return add


def state_of(run, config, mesh, step=16):
    return Checkpoints(run).restore(step, state_layout(build(config), mesh))


@pytest.mark.parametrize("shape", [{}, {"steps_per_dispatch": 4, "gradient_accumulation_steps": 2}])
@pytest.mark.parametrize("kind", ROWS)
def test_a_stopped_run_ends_bit_for_bit_as_an_unbroken_one(kind, shape, added, one, tmp_path):
    config = changed(added(kind), train=shape)
    train(config, tmp_path / "whole", mesh=one)
    train(changed(config, train={"steps": 8}), tmp_path / "parts", mesh=one)
    train(config, tmp_path / "parts", mesh=one)
    whole, parts = (state_of(tmp_path / name, config, one) for name in ("whole", "parts"))
    assert_same(whole, parts)
    before = state_of(tmp_path / "whole", config, one, step=4)
    assert not np.array_equal(jax.tree.leaves(before.params)[0], jax.tree.leaves(whole.params)[0])
    if kind == "timestep sampler":
        assert int(before.timesteps.counts.min()) < 2 == int(whole.timesteps.counts.min())
        assert_same(state_of(tmp_path / "parts", config, make_mesh(1)), whole)


@pytest.mark.parametrize("kind", ROWS)
def test_a_step_that_is_not_finite_changes_none_of_their_state(kind, added, one, tmp_path):
    config = added(kind)
    loop = StepLoop(config)
    state, _ = loop.run(loop.init(), 3)
    before = jax.tree.map(np.asarray, state)
    worse = loop.batch(3)._replace(labels=None)
    worse.examples[0, 0] = np.nan
    after, metrics = loop._step(state, worse)
    assert int(metrics["nonfinite"]) == 1
    assert_same(after._replace(step=before.step, nonfinite=before.nonfinite), before)


def test_a_run_with_another_optimizer_passes_over_non_finite_steps(
    added, one, tmp_path, monkeypatch
):
    plain = Batches.__call__

    def poisoned(self, step):
        batch = plain(self, step)
        if step in (5, 6):
            batch.examples[0, 0] = np.nan
        return batch

    monkeypatch.setattr(Batches, "__call__", poisoned)
    config = added("optimizer")
    train(config, tmp_path, mesh=one)
    state = state_of(tmp_path, config, one)
    assert int(state.step) == 16
    assert int(state.opt_state[1].count) == 14
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("kind", ROWS)
def test_going_on_with_another_row_is_refused_in_a_line(kind, added, one, tmp_path):
    config = added(kind)
    train(changed(POINTS, train={"steps": 4}), tmp_path, mesh=one)
    with pytest.raises(UserError, match=r"holds a run with (optimizer|train)\.") as told:
        train(config, tmp_path, mesh=one)
    assert len(str(told.value).splitlines()) == 1
    assert "does not fit its saved" in str(told.value)


def test_adam_goes_on_as_adamw_and_back(one, tmp_path):
    for steps, name, decay in ((4, "adam", 0.0), (8, "adamw", 0.1), (12, "adam", 0.0)):
        options = {"weight_decay": decay} if name == "adamw" else {}
        settings = {"method": Choice(name, **options)}
        config = changed(POINTS, train={"steps": steps}, optimizer=settings)
        assert train(config, tmp_path, mesh=one).step == steps


def test_each_average_has_its_own_decay_and_is_loaded_by_name(added, one, tmp_path):
    config = changed(added("average"), train={"steps": 4})
    train(config, tmp_path, mesh=one)
    loop = StepLoop(config)
    state = loop.init()
    expected = {name: jax.tree.map(np.asarray, state.params) for name in ("ema", "short")}
    for step in range(1, 5):
        state, _ = loop.run(state, 1)
        for name, decay in (("ema", min(0.9, (1 + step) / (10 + step))), ("short", 0.5)):
            expected[name] = jax.tree.map(
                lambda old, new, decay=decay: decay * old + (1 - decay) * np.asarray(new),
                expected[name],
                state.params,
            )
    for name, tree in expected.items():
        found = ddpm_jax.load(tmp_path, params=name)  # type: ignore[arg-type]
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), found.params, tree
        )


@pytest.mark.parametrize(("devices", "fsdp"), [(8, 1), (8, 4)])
def test_the_history_is_whole_and_the_same_on_every_mesh(added, monkeypatch, devices, fsdp):
    monkeypatch.setattr(meshes, "_SMALLEST_SPLIT", 1)
    config = added("timestep sampler")
    alone = StepLoop(config)
    shared = StepLoop(changed(config, mesh={"fsdp": fsdp}), devices)
    one, losses = alone.run(alone.init(), 6)
    other, others = shared.run(shared.init(), 6)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    np.testing.assert_allclose(other.timesteps.losses, one.timesteps.losses, rtol=1e-5)
    np.testing.assert_array_equal(other.timesteps.counts, one.timesteps.counts)
    assert other.timesteps.losses.sharding.is_fully_replicated
    assert one.timesteps.losses.any(axis=1).all()


def test_an_unknown_logger_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"unknown logger 'tensorbord' .did you mean tensorboard"):
        train(changed(POINTS, train={"loggers": ("tensorbord",)}), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
