import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.averages import ema_update, warmed_up
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.experiment import build
from ddpm_jax.runtime import mesh as meshes
from ddpm_jax.runtime.mesh import make_mesh, shard_batch
from ddpm_jax.training.step import (
    jit_init,
    jit_train_step,
    state_layout,
    step_inputs,
    step_layouts,
)
from tests.tiny import TINY, UNET, StepLoop, assert_same, changed


@pytest.fixture(scope="module")
def trainer():
    return StepLoop(UNET)


@pytest.fixture(scope="module")
def unbroken(trainer):
    """Twenty steps on one device."""
    return trainer.run(trainer.init(), 20)


def test_losses_fall(unbroken):
    _, losses = unbroken
    assert np.isfinite(losses).all()
    assert losses[-5:].mean() < 0.8 * losses[:2].mean()


@pytest.mark.parametrize(("devices", "fsdp"), [(8, 1), (8, 4)])
def test_any_mesh_gives_the_losses_of_one_device(unbroken, monkeypatch, devices, fsdp):
    # Split everything that can be, small as it is here.
    monkeypatch.setattr(meshes, "_SMALLEST_SPLIT", 1)
    other = StepLoop(changed(UNET, mesh={"fsdp": fsdp}), devices)
    state, losses = other.run(other.init(), 20)
    np.testing.assert_allclose(losses, unbroken[1], rtol=1e-5)
    if fsdp > 1:
        kernel = state.params["conv_in"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape)[-1] == kernel.shape[-1] // fsdp


def test_a_run_goes_on_from_eight_devices_to_one_and_to_four(monkeypatch, tmp_path):
    trainer = StepLoop()
    _, unbroken = trainer.run(trainer.init(), 20)
    monkeypatch.setattr(meshes, "_SMALLEST_SPLIT", 1)
    checkpoints = Checkpoints(tmp_path)
    losses, step = [], 0
    for devices, fsdp, count in ((8, 1, 6), (1, 1, 6), (4, 2, 8)):
        it = StepLoop(changed(TINY, mesh={"fsdp": fsdp}), devices)
        if step:
            state = checkpoints.restore(step, state_layout(it.experiment, it.mesh))
        else:
            state = it.init()
        assert int(state.step) == step
        ours, alone = (
            jax.jit(a.experiment.draw)(shard_batch(a.batch(step), a.mesh), step)
            for a in (it, trainer)
        )
        assert_same(ours._replace(dropout=None), alone._replace(dropout=None))
        state, some = it.run(state, count)
        losses += some.tolist()
        step += count
        checkpoints.save(step, state, it.experiment.config, keep=9, keep_every=None)
        checkpoints.wait()
    checkpoints.close()
    np.testing.assert_allclose(losses, unbroken, rtol=1e-5)


@pytest.mark.parametrize(("devices", "fsdp"), [(8, 1), (8, 4)])
def test_any_mesh_draws_exactly_the_noise_of_one_device(trainer, devices, fsdp):
    other = StepLoop(changed(UNET, mesh={"fsdp": fsdp}), devices)
    for step in (0, 7):
        alone, shared = (
            jax.jit(it.experiment.draw)(shard_batch(it.batch(step), it.mesh), step)
            for it in (trainer, other)
        )
        drop_key = {"dropout": None}
        assert_same(alone._replace(**drop_key), shared._replace(**drop_key))


def test_each_step_and_seed_draws_anew(trainer):
    draw = jax.jit(trainer.experiment.draw)
    batch = trainer.batch(0)
    first, second = draw(batch, 0), draw(batch, 1)
    assert not np.array_equal(first.eps, second.eps)
    assert not np.array_equal(first.t, second.t)
    other = build(dataclasses.replace(UNET, seed=1)).draw(batch, 0)
    assert not np.array_equal(first.eps, other.eps)


def test_draws_are_what_they_are_called(trainer):
    config = changed(UNET, train={"batch_size": 4096})
    big = StepLoop.batch.__get__(_Like(trainer, config))(0)
    drawn = build(config).draw(big, 3)
    assert drawn.t.min() == 1
    assert drawn.t.max() == UNET.diffusion.timesteps
    assert abs(float(drawn.eps.mean())) < 0.01
    assert abs(float(drawn.eps.std()) - 1) < 0.01
    dropped = np.asarray(drawn.conditioning.labels) == 10
    assert 0.17 < dropped.mean() < 0.23
    np.testing.assert_array_equal(
        np.asarray(drawn.conditioning.labels)[~dropped], big.labels[~dropped]
    )
    plain = np.asarray(big.examples, np.float32) / 127.5 - 1
    same = np.isclose(drawn.x_0, plain, atol=1e-6).all((1, 2, 3))
    mirrored = np.isclose(drawn.x_0, plain[:, :, ::-1], atol=1e-6).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 0.4 < same.mean() < 0.6


class _Like:
    def __init__(self, trainer, config):
        self.source, self.experiment = trainer.source, build(config)


def test_without_flips_and_drops_the_data_goes_in_as_it_is(trainer):
    config = changed(UNET, data={"flip": False}, train={"label_dropout": 0.0})
    drawn = build(config).draw(trainer.batch(0), 0)
    np.testing.assert_allclose(drawn.x_0, trainer.batch(0).examples / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(drawn.conditioning.labels, trainer.batch(0).labels)


def test_several_steps_a_dispatch_are_the_single_steps(trainer, unbroken):
    config = changed(UNET, train={"steps_per_dispatch": 4})
    several, state = jit_train_step(build(config), trainer.mesh), trainer.init()
    for first in (0, 4):
        batches = [trainer.batch(n) for n in range(first, first + 4)]
        stacked = shard_batch(
            jax.tree.map(lambda *x: np.stack(x), *batches), trainer.mesh, leading=1
        )
        state, metrics = several(state, stacked, step_inputs(build(config), first))
        np.testing.assert_allclose(metrics["loss"], unbroken[1][first : first + 4], rtol=1e-4)
    assert int(state.step) == 8


def test_no_array_of_the_state_is_copied(trainer):
    # It is donated, and each array of it can be written in its place. A guard that chooses between
    # the old state and the new one once both are there had all moments and parameters copied.
    layouts = step_layouts(trainer.experiment, trainer.mesh)
    program = trainer.program.lower(*layouts).compile().as_text()
    assert "parameter(" in program
    assert not re.findall(r"= f32\[\d\S* copy\((?:\S+ )?%state_\w+", program)


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    plain = TINY
    whole, parts = (
        StepLoop(changed(plain, train={"gradient_accumulation_steps": n})) for n in (1, 4)
    )
    (one, one_losses), (four, four_losses) = (it.run(it.init(), 3) for it in (whole, parts))
    np.testing.assert_allclose(four_losses, one_losses, rtol=1e-5)
    # Adam divides by the gradient's size: where that is tiny, rounding is not.
    for a, b in zip(jax.tree.leaves(one.ema), jax.tree.leaves(four.ema), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-4)


def test_the_gradient_that_is_logged_is_not_clipped(trainer):
    clipped = StepLoop(changed(UNET, optimizer={"clip": 1e-3}))
    norms = [
        float(it._step(it.init(), shard_batch(it.batch(0), it.mesh))[1]["grad_norm"])
        for it in (trainer, clipped)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert norms[0] > 1e-2


def test_the_rate_that_is_logged_is_the_one_that_was_used(trainer):
    state, rates = trainer.init(), []
    for step in range(3):
        before = jax.tree.map(np.asarray, state.params)
        state, metrics = trainer._step(state, shard_batch(trainer.batch(step), trainer.mesh))
        rates.append(float(metrics["learning_rate"]))
        if step == 0:  # Adam's first step moves each number by the rate, or not at all.
            moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, state.params)
            assert max(jax.tree.leaves(moves)) == pytest.approx(rates[0], rel=1e-3)
    # A warm-up of two steps, then the peak.
    assert rates == pytest.approx([0.005, 0.01, 0.01])


def test_the_average_follows_at_first_and_is_slow_later():
    zero, one = {"w": jnp.zeros(())}, {"w": jnp.ones(())}
    for step, expected in ((1, 1 - 2 / 11), (10**6, 1 - 0.999)):
        averages = {"ema": warmed_up(decay=0.999)}
        (average,) = ema_update(averages, {"ema": zero}, one, jnp.asarray(step)).values()
        assert float(average["w"]) == pytest.approx(expected, rel=1e-3)


def test_the_average_of_a_run_is_its_recurrence(trainer):
    state = trainer.init()
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
    for step in range(1, 5):
        state, _ = trainer.run(state, 1)
        decay = min(UNET.train.averages["ema"].options["decay"], (1 + step) / (10 + step))
        params = jax.tree.leaves(state.params)
        expected = [
            decay * e + (1 - decay) * np.asarray(p) for e, p in zip(expected, params, strict=True)
        ]
    for e, leaf in zip(expected, jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_allclose(leaf, e, rtol=1e-5, atol=1e-7)


def test_the_layouts_are_what_the_step_takes_and_the_state_is_consumed(trainer):
    layout = state_layout(trainer.experiment, trainer.mesh)
    state = trainer.init()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), layout) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    compiled = (
        jit_train_step(trainer.experiment, trainer.mesh)
        .lower(*step_layouts(trainer.experiment, trainer.mesh))
        .compile()
    )
    inputs = step_inputs(trainer.experiment, 0)
    compiled(state, shard_batch(trainer.batch(0), trainer.mesh), inputs)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


# What changes from one run to the next of the same network. `optimizer.warmup` and `decay` are the
# course of the rate; UNET's own are 1e-2, 2 and constant.
OTHER_RUNS = [
    {"optimizer": {"learning_rate": 1e-4}},
    {"optimizer": {"warmup": 5, "decay": "cosine"}},
    {"train": {"steps": 999}},
    {"train": {"save_every": 6, "log_every": 3, "preview_every": None, "keep": 7}},
    {"train": {"on_nonfinite": "rollback", "max_nonfinite_steps": 3}},
    {"seed": 7},
]


@pytest.mark.parametrize("several", [1, 3])
@pytest.mark.parametrize("change", OTHER_RUNS, ids=str)
def test_another_rate_seed_or_number_of_steps_needs_no_other_program(change, several):
    plain = changed(TINY, train={"steps": 12, "save_every": 6, "log_every": 6, "preview_every": 6})
    plain = changed(plain, train={"steps_per_dispatch": several})
    sections = {name: value for name, value in change.items() if name != "seed"}
    other = dataclasses.replace(changed(plain, **sections), seed=change.get("seed", 0))
    assert other != plain
    assert _programs(other) == _programs(plain)


def _programs(config):
    """What the compile cache knows the programs of the first step by."""
    experiment, mesh = build(config), make_mesh(1, jax.devices()[:1])
    step = jit_train_step(experiment, mesh).lower(*step_layouts(experiment, mesh))
    init = jit_init(experiment, mesh).lower(np.uint32(config.seed))
    return init.as_text(), step.as_text()


def test_another_seed_trains_another_run(trainer, unbroken):
    other = StepLoop(dataclasses.replace(UNET, seed=7))
    _, losses = other.run(other.init(), 2)
    assert not np.array_equal(losses, unbroken[1][:2])
    # The step draws for the seed that it is told, not for one that was compiled.
    batch = shard_batch(trainer.batch(0), trainer.mesh)
    inputs = step_inputs(trainer.experiment, 0)
    losses = [
        float(trainer.program(trainer.init(), batch, it)[1]["loss"])
        for it in (inputs, inputs._replace(seed=np.uint32(7)))
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("several", [1, 4])
def test_each_step_learns_at_its_own_rate(trainer, several):
    course = {"learning_rate": 1e-2, "warmup": 2, "decay": "cosine"}
    config = changed(UNET, optimizer=course, train={"steps_per_dispatch": several})
    experiment = build(config)
    rates = np.concatenate(
        [np.ravel(step_inputs(experiment, n).learning_rate) for n in range(0, 12, several)]
    )
    rise = [0.5e-2, 1e-2]
    fall = 0.5e-2 * (1 + np.cos(np.pi * np.arange(10) / 10))
    np.testing.assert_allclose(rates, [*rise, *fall], rtol=1e-6)
    assert rates.dtype == np.float32
