"""What a config becomes."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Choice, Config, MlpConfig, PointsData, SampleConfig, override
from ddpm_jax.diffusion import OBJECTIVES, predict
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.runtime.random import STREAMS
from ddpm_jax.training.state import init_state
from ddpm_jax.training.step import gradient
from ddpm_jax.typing import Batch, Conditioning, DiffusionInputs
from tests.tiny import TINY, UNET, changed

LEARNED = Choice("ddpm", variance="learned")


def test_an_objective_that_learns_a_variance_doubles_the_outputs():
    config = override(TINY, {"diffusion.objective": "hybrid", "sample.sampler": LEARNED})
    shape = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)

    def outputs(experiment):
        def output(x_t):
            params = experiment.init_params(jax.random.key(0))
            return experiment.apply(params, x_t, jnp.array(3), experiment.condition(), train=False)

        return jax.eval_shape(output, shape).shape

    assert outputs(build(TINY)) == (2, 8, 8, 1)
    assert outputs(build(config)) == (2, 8, 8, 2)


def test_conditioning_is_built_in_one_place():
    experiment = build(TINY)
    labels = jnp.array([1, 2, 3])
    dropped = experiment.condition(labels, dropped=jnp.array([True, False, False])).labels
    np.testing.assert_array_equal(dropped, [10, 2, 3])
    np.testing.assert_array_equal(experiment.condition(labels, dropped=True).labels, [10] * 3)
    assert experiment.condition(labels).labels is labels
    plain = build(changed(TINY, model={"num_classes": 0}, train={"label_dropout": 0.0}))
    given = plain.condition(labels, beside=Conditioning(image=labels), dropped=True)
    assert given.labels is None
    assert given.image is labels


@pytest.mark.parametrize("data", ["digits", "points"])
def test_a_classifier_has_an_output_for_each_class_and_is_not_told_the_labels(data):
    """Any network may be one; its inputs hold the labels, undropped, for the objective alone."""
    config = changed(TINY, diffusion={"objective": "classification"})
    batch = Batch(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4, dtype=np.int32))
    if data == "points":
        sample = SampleConfig(clipping="none")
        model = MlpConfig(width=4, layers=1, num_classes=10)
        config = dataclasses.replace(config, data=PointsData(), model=model, sample=sample)
        batch = batch._replace(examples=np.zeros((4, 2), np.float32))
    experiment = build(config)
    drawn = experiment.draw(batch, 3)
    assert drawn.conditioning.labels is None
    np.testing.assert_array_equal(drawn.labels, batch.labels)
    params = experiment.init_params(jax.random.key(0))
    losses = experiment.losses(params, drawn, train=False)
    np.testing.assert_allclose(losses, np.log(10), rtol=1e-5)


def test_a_sampler_of_a_learned_variance_needs_an_objective_that_trains_it():
    with pytest.raises(UserError, match=r"^sample\.sampler is .*: diffusion\.objective simple"):
        override(TINY, {"sample.sampler": LEARNED})


def test_a_row_that_refuses_its_neighbours_is_named(monkeypatch):
    def picky(schedule, parameterization, error, weight, *, scale: float = 1.0):
        if schedule.T > 10:
            raise ValueError(f"scale is {scale}; it must be 0 beyond T = 10")
        return OBJECTIVES["simple"](schedule, parameterization, error, weight)

    monkeypatch.setitem(OBJECTIVES, "picky", picky)
    with pytest.raises(UserError, match=r"^diffusion\.objective\.scale is 1\.0; it must be 0"):
        dataclasses.replace(TINY.diffusion, objective="picky")


# --- what each setting reaches --------------------------------------------------------------------

BASE = override(
    TINY, {"optimizer.decay": "linear", "diffusion.weighting": "min_snr", "optimizer.clip": 1.0}
)


def parts(experiment):
    """What an experiment computes: its schedule, the losses of some outputs, rates and updates."""
    x_0, eps, output = jax.random.normal(jax.random.key(0), (3, 16, 4, 4, 1))
    given = DiffusionInputs(x_0, x_0, eps, jnp.arange(1, 17), Conditioning(), None)
    params = {"w": jnp.ones(3)}
    state, moves = experiment.optimizer.init(params), []
    for scale in (10.0, 0.1):
        grads = {"w": scale * jnp.array([1.0, -2.0, 3.0])}
        update, state = experiment.optimizer.update(
            grads, state, params, learning_rate=experiment.learning_rate(6)
        )
        moves.append(update["w"])
    return {
        "schedule": experiment.schedule.log_snr,
        "losses": np.asarray(experiment.objective(output, given)),
        "rates": np.array([experiment.learning_rate(step) for step in range(12)]),
        "updates": np.array(moves),
    }


@pytest.fixture(scope="module")
def base():
    return parts(build(BASE))


@pytest.mark.parametrize(
    ("setting", "value", "reached"),
    [
        ("diffusion.schedule", "linear", {"schedule", "losses"}),
        ("diffusion.schedule", Choice("cosine", s=0.1), {"schedule", "losses"}),
        ("diffusion.timesteps", 40, {"schedule", "losses"}),
        ("diffusion.prediction", "v", {"losses"}),
        ("diffusion.loss", "l1", {"losses"}),
        ("diffusion.weighting", "none", {"losses"}),
        ("diffusion.weighting", Choice("min_snr", gamma=1.0), {"losses"}),
        ("optimizer.learning_rate", 0.02, {"rates", "updates"}),
        ("optimizer.warmup", 9, {"rates", "updates"}),
        ("optimizer.decay", "constant", {"rates", "updates"}),
        ("train.steps", 24, {"rates", "updates"}),
        ("optimizer.clip", 0.5, {"updates"}),
        ("optimizer.clip", None, {"updates"}),
        ("optimizer.method", Choice("adam", beta2=0.5), {"updates"}),
        ("optimizer.method", Choice("adamw", weight_decay=0.1), {"updates"}),
    ],
    ids=lambda it: " ".join(sorted(it)) if isinstance(it, set) else str(it),
)
def test_each_setting_reaches_what_it_is_about_and_nothing_else(setting, value, reached, base):
    found = parts(build(override(BASE, {setting: value})))
    assert {name for name in base if not np.array_equal(base[name], found[name])} == reached


# --- what a step draws ----------------------------------------------------------------------------

SIZE = 320
# Every picture is unlike its mirror image, and no label is that of "no class".
PICTURES = Batch(
    np.tile(np.arange(0, 64, 8, dtype=np.uint8)[:, None], (SIZE, 8, 1, 1)),
    np.arange(SIZE, dtype=np.int32) % 10,
)


def drawn(steps, *, seed=0, batch=PICTURES):
    """The draws of some steps, `[steps, B, …]` each, by the stream that they come from."""
    experiment = build(dataclasses.replace(TINY, seed=seed))
    found = jax.jit(jax.vmap(experiment.draw, (None, 0)))(batch, jnp.asarray(steps, jnp.int32))
    return {
        "noise": np.asarray(found.eps).reshape(*found.t.shape, -1),
        "timestep": np.asarray(found.t),
        "flip": np.asarray(found.x_0[..., 0, 0, 0] > found.x_0[..., 0, -1, 0]),
        "labels": np.asarray(found.conditioning.labels == 10),
        "dropout": np.asarray(jax.random.key_data(found.dropout)),
    }


def test_every_example_step_and_seed_has_its_own_draws():
    """The steps and examples cross 64, 256 and 2^16, where numbers in too few bits come again."""
    steps = [0, 1, 63, 64, 65, 128, 255, 256, 257, 1000, 2**16, 2**16 + 1, 2**24, 2**24 + 1]
    every = [drawn(steps, seed=seed) for seed in (0, 1, 2**16, 2**32 - 1)]
    for name in every[0]:
        rows = np.concatenate([each[name].reshape(len(steps), -1) for each in every])
        assert len(np.unique(rows, axis=0)) == len(rows), name
    noise = np.concatenate([each["noise"].reshape(-1, 64) for each in every])
    assert len(np.unique(noise, axis=0)) == len(noise)
    # No draw tells of another one, be it of the same example: within five standard deviations.
    kinds = ("timestep", "flip", "labels")
    flat = [np.concatenate([each[name].ravel() for each in every]) for name in kinds]
    flat += [noise[:, 0], noise[:, 1], np.roll(noise[:, 0], 1)]
    correlation = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(correlation).max() < 5 / np.sqrt(len(noise))


@pytest.mark.parametrize("stream", ["timestep", "noise", "dropout", "labels", "flip"])
def test_each_draw_comes_from_its_own_stream_alone(stream, monkeypatch):
    plain = drawn([3])
    monkeypatch.setitem(STREAMS, stream, 99)
    other = drawn([3])
    changes = {name for name in plain if not np.array_equal(plain[name], other[name])}
    assert changes == {stream}


def test_each_seed_begins_with_its_own_parameters():
    config = Config(
        data=PointsData(size=9),
        model=MlpConfig(width=16, layers=2),
        sample=SampleConfig(clipping="none"),
    )
    kernels = [
        [np.asarray(leaf) for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1 and leaf.any()]
        for state in (init_state(build(config), seed) for seed in (0, 1, 2**16))
    ]
    assert len(kernels[0]) > 1
    for one, other in itertools.combinations(kernels, 2):
        for a, b in zip(one, other, strict=True):
            assert np.mean(a == b) < 0.01


class Dropping(nn.Module):
    """Its output is its input, times one parameter, with a part of it dropped in training."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x_t, t, conditioning, *, train):
        scale = self.param("scale", nn.initializers.ones, ())
        return nn.Dropout(self.rate, deterministic=not train)(scale * x_t)


@pytest.mark.parametrize("parts", [1, 4])
def test_dropout_drops_anew_for_each_example_part_and_step_in_training_alone(parts):
    """In a batch of one example many times, only dropout tells the losses apart."""
    experiment = dataclasses.replace(build(TINY), model=Dropping())
    params, few = {"scale": jnp.ones(())}, jax.tree.map(lambda leaf: leaf[:8], PICTURES)

    @jax.jit
    def losses(step):
        given = experiment.draw(few, step)
        once = jax.tree.map(lambda x: x[:1], given._replace(dropout=None))
        same = jax.tree.map(lambda x: jnp.repeat(x, 8, 0), once)._replace(dropout=given.dropout)
        plain = experiment.losses(params, same, train=False)
        return gradient(experiment, params, same, parts)[1], plain

    found, plain = np.stack([losses(step) for step in (0, 1)], axis=1)
    assert len(np.unique(found)) == 16
    np.testing.assert_allclose(plain, np.repeat(plain[:, :1], 8, 1), rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 4])
def test_the_gradient_is_that_of_the_weighted_mean_and_losses_keep_their_order(parts):
    experiment = dataclasses.replace(build(TINY), model=Dropping(rate=0.0))
    params = {"scale": jnp.array(0.7)}
    few = jax.tree.map(lambda leaf: leaf[:8], PICTURES)
    weight = jnp.linspace(0.1, 3.0, 8)
    given = experiment.draw(few, 0)._replace(weight=weight)

    def mean(params):
        losses = experiment.losses(params, given, train=False)
        return jnp.mean(weight * losses), losses

    (expected, each), slope = jax.value_and_grad(mean, has_aux=True)(params)
    loss, losses, grads = jax.jit(lambda params: gradient(experiment, params, given, parts))(params)
    np.testing.assert_allclose(losses, each, rtol=1e-5)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(grads["scale"], slope["scale"], rtol=1e-5)


def self_conditioned(probability):
    """An experiment on the network's own last x̂_0, with parameters that answer to it."""
    condition = Choice("self_conditioning", probability=probability)
    experiment = build(override(UNET, {"diffusion.condition": condition}))
    params = experiment.init_params(jax.random.key(0))
    return experiment, jax.tree.map(lambda leaf: leaf + 0.05, params)


@pytest.mark.parametrize("shows", [0.0, 1.0])
def test_a_step_shows_the_network_its_first_prediction_or_zeros(shows, monkeypatch):
    """The loss and its gradient are those of a network given that picture as data."""
    monkeypatch.setenv("DDPM_JAX_OPS", "reference")  # A third of the time to trace.
    experiment, params = self_conditioned(shows)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)

    @jax.jit
    def compare(params):
        drawn = experiment.draw(Batch(images, np.arange(4, dtype=np.int32)), 3)
        x_t, t, zeros = drawn.x_t, drawn.t, jnp.zeros_like(drawn.x_t)

        def output(params, image):
            seen = drawn.conditioning._replace(image=image)
            rngs = {"dropout": drawn.dropout}
            return experiment.apply(params, x_t, t, seen, train=True, rngs=rngs)

        blank = drawn.conditioning._replace(image=zeros)
        first = experiment.apply(params, x_t, t, blank, train=False)
        first = predict(experiment.parameterization, experiment.schedule, first, x_t=x_t, t=t).x_0
        image = shows * jnp.clip(first, -1, 1)

        def loss(params):
            y = output(params, image)
            return experiment.objective(y, drawn).mean(), y

        (expected, y), slope = jax.value_and_grad(loss, has_aux=True)(params)
        found = jax.value_and_grad(lambda p: experiment.losses(p, drawn, train=True).mean())(params)
        other = output(params, jnp.clip(first, -1, 1) - image)
        return first, (expected, slope), found, jnp.abs(y - other).max()

    first, expected, found, change = compare(params)
    assert np.abs(first).max() > 1
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert change > 1e-3


def test_half_of_the_steps_show_it():
    experiment, _ = self_conditioned(0.5)
    image = jnp.zeros((4, 8, 8, 1))
    keys = jax.random.split(jax.random.key(0), 400)
    shown = jax.vmap(lambda key: experiment.beside(image, key).image)(keys)
    each = np.asarray(shown).reshape(400, -1)
    assert set(np.unique(each)) == {0.0, 1.0}
    assert (each.min(1) == each.max(1)).all()
    assert 160 < each[:, 0].sum() < 240


def test_a_classifier_sees_nothing_beside_x_t():
    settings = {"diffusion.condition": "self_conditioning", "diffusion.objective": "classification"}
    with pytest.raises(UserError, match=r"is .self_conditioning.; it must be nothing for"):
        override(TINY, settings)
