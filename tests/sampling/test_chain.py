import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Choice
from ddpm_jax.diffusion import SAMPLERS, TIME_GRIDS, Sampler, make_sampler
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.models import MODELS
from ddpm_jax.runtime.memory import OutOfMemory
from ddpm_jax.sampling import chain
from ddpm_jax.sampling.chain import Start, _chunk
from ddpm_jax.typing import Conditioning, Operator
from tests.models.beside import Beside, BesideConfig
from tests.sampling.programs import program
from tests.tiny import TINY, UNET, StepLoop, changed


@pytest.mark.parametrize("num", [1, 5, 16])
def test_fewer_samples_are_the_first_of_many(trained, sixteen, num):
    few = program(trained[0], batch_size=8)(trained[1], num, seed=3)
    assert few.samples.shape == (num, 8, 8, 1)
    np.testing.assert_allclose(few.samples, sixteen.samples[:num], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_batch_size_changes_no_sample(trained, sixteen, batch_size):
    other = program(trained[0], batch_size=batch_size)(trained[1], 16, seed=3)
    np.testing.assert_allclose(other.samples, sixteen.samples, atol=1e-5)


@pytest.mark.parametrize("devices", [3, 8])
def test_the_number_of_devices_changes_no_sample(trained, sixteen, devices):
    other = program(trained[0], devices)(trained[1], 16, seed=3)
    np.testing.assert_allclose(other.samples, sixteen.samples, atol=1e-5)


@pytest.mark.parametrize(
    "sampler",
    [Choice("dpmpp-sde", order=3), Choice("dpmpp", order=1), Choice("heun", s_churn=5.0)],
)
def test_a_history_and_fresh_noise_are_the_same_on_any_devices(trained, sampler):
    one, many = (
        program(trained[0], devices, sampler=sampler, steps=6)(trained[1], 8, seed=3).samples
        for devices in (1, 8)
    )
    np.testing.assert_allclose(many, one, atol=3e-5)


def test_the_same_program_gives_the_same_pixels(trained, sixteen):
    again = program(trained[0])(trained[1], 16, seed=3)
    np.testing.assert_array_equal(again.samples, sixteen.samples)
    other = program(trained[0])(trained[1], 16, seed=4)
    assert np.abs(other.samples - sixteen.samples).mean() > 0.1


def test_samples_further_on_are_those_of_a_longer_draw(trained, sixteen):
    later = program(trained[0])(trained[1], 16, seed=3, first=9)
    np.testing.assert_allclose(later.samples[:7], sixteen.samples[9:], atol=1e-5)
    np.testing.assert_array_equal(later.labels, np.arange(9, 25) % 10)


def test_every_sample_of_every_seed_starts_from_its_own_noise(trained):
    """Also beyond 64, 256 and 2^16, where an index in too few bits comes again."""
    start, places = program(trained[0])._start, [63, 64, 255, 256, 2**16, 2**24 + 1, 2**32 - 1]
    indices = np.unique([*range(300), *places]).astype(np.uint32)
    found = [np.asarray(start(np.uint32(seed), indices, None).x) for seed in (0, 1, *places)]
    rows = np.concatenate(found).reshape(-1, 64)
    assert len(np.unique(rows, axis=0)) == len(rows)
    # All of them are numbers of one standard normal distribution.
    assert abs(rows.mean()) < 5 / np.sqrt(rows.size)
    assert abs(rows.std() - 1) < 5 / np.sqrt(2 * rows.size)


def test_every_sample_of_every_seed_has_its_own_noise_on_the_way(trained):
    """From one x, with one label, only the noise of the steps tells samples apart."""
    chain = program(trained[0], times=np.array([20, 10, 0]), clipping="none")
    x, num = np.zeros((80, 8, 8, 1)), 80
    found = [
        chain(trained[1], num, seed=seed, first=first, labels=[0] * num, start=Start(x, 20))
        for seed, first in ((0, 0), (1, 0), (64, 0), (2**16, 0), (0, 250), (0, 2**16))
    ]
    rows = np.concatenate([each.samples for each in found]).reshape(-1, 64)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_samples_are_float32_on_the_scale_of_the_data(sixteen):
    assert sixteen.samples.dtype == np.float32
    assert np.abs(sixteen.samples).max() <= 1
    np.testing.assert_array_equal(sixteen.labels, np.arange(16) % 10)


def test_trajectories_begin_with_noise_and_end_with_the_samples(trained, sixteen):
    chain = program(trained[0])
    traced = chain(trained[1], 16, seed=3, num_trajectories=4)
    np.testing.assert_array_equal(traced.samples, sixteen.samples)
    assert traced.frames is not None
    assert traced.frames.shape[1:] == (4, 8, 8, 1)
    np.testing.assert_array_equal(traced.frames[-1], sixteen.samples[:4])
    noise = chain._start(np.uint32(3), np.arange(16, dtype=np.uint32), None).x
    np.testing.assert_array_equal(traced.frames[0], noise[:4])
    np.testing.assert_array_equal(traced.times, np.arange(20, -1, -1))
    assert len(traced.frames) == 21
    assert sixteen.frames is None
    # Of several batches, the first has all that are traced.
    several: Any = program(trained[0], batch_size=8)(trained[1], 16, seed=3, num_trajectories=4)
    np.testing.assert_allclose(several.frames, traced.frames, atol=1e-5)


def test_progress_ends_at_the_total(trained):
    told = []
    run = program(trained[0], batch_size=8)
    run(trained[1], 16, seed=0, progress=lambda *pair: told.append(pair))
    assert told == sorted(told)
    assert told[-1] == (40, 40)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_with_any_number_of_steps(trained, name):
    for steps in (1, 7):
        drawn = program(trained[0], sampler=name, steps=steps)(trained[1], 8, seed=0)
        assert np.isfinite(drawn.samples).all()


def test_labels_reach_the_network(trained, sixteen):
    other = program(trained[0])(trained[1], 16, seed=3, labels=[3] * 16)
    different = np.abs(other.samples - sixteen.samples).max((1, 2, 3)) > 1e-4
    np.testing.assert_array_equal(different, sixteen.labels != 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 21}, "sample.steps is 21; it must be at most T, which is 20"),
        ({"sampler": "ddpm", "eta": 0.5}, "left out for ddpm, which has none"),
    ],
)
def test_options_that_do_not_go_together_are_refused(trained, options, words):
    with pytest.raises(UserError) as caught:
        program(trained[0], **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("num", "seed", "words"), [(0, 0, "number of samples is 0"), (1, -1, "seed is -1")]
)
def test_numbers_and_seeds_out_of_range_are_refused(trained, num, seed, words):
    with pytest.raises(UserError, match=words):
        program(trained[0])(trained[1], num, seed=seed)


def test_guidance_needs_dropped_labels():
    experiment = build(changed(TINY, train={"label_dropout": 0.0}))
    with pytest.raises(UserError, match=r"sample.guidance needs a network trained with"):
        program(experiment, guidance=1.0)


def test_a_network_without_labels_takes_none():
    plain = changed(TINY, model={"num_classes": 0}, train={"label_dropout": 0.0, "steps": 1})
    trainer = StepLoop(plain)
    run = program(trainer.experiment)
    params = trainer.init().params
    assert run(params, 2, seed=0).labels is None
    with pytest.raises(UserError, match="trained without labels"):
        run(params, 2, seed=0, labels=[1, 1])


def test_chunks_divide_the_chain_where_they_can():
    for steps in (1, 7, 20, 50, 100, 200, 250, 1000, 4000):
        assert steps % _chunk(steps) == 0
        assert 1 <= steps / _chunk(steps) <= 100
    assert _chunk(997) == 20


def test_the_options_of_a_sampler_reach_its_plan(trained):
    plans = [
        program(trained[0], sampler=Choice("ddim", eta=eta)).rows.coefficients for eta in (0, 0.5)
    ]
    assert not plans[0].fresh_scale.any()
    assert plans[1].fresh_scale[:-1].all()


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_grid_may_be_fractional_where_the_network_takes_such_times(monkeypatch, shift):
    def grid(schedule, steps, *, shift: float = 0.0):
        times = schedule.T * np.arange(steps, -1, -1) / steps
        return np.append(times[:-1] - shift, 0.0)

    monkeypatch.setitem(TIME_GRIDS, "shifted", grid)
    experiment = build(UNET)
    params = experiment.init_params(jax.random.key(0))
    run = program(experiment, grid=Choice("shifted", shift=shift), steps=4)
    np.testing.assert_array_equal(run.times, [20 - shift, 15 - shift, 10 - shift, 5 - shift, 0])
    np.testing.assert_array_equal(run.rows.t, run.times[:-1])
    assert np.isfinite(run(params, 8, seed=0).samples).all()


# --- where a chain starts, and where it goes -----------------------------------------------------


def test_a_chain_may_start_from_given_samples(trained, sixteen):
    """From the noise at T it is the whole chain; from x_t of the trajectory, its end."""
    chain = program(trained[0], batch_size=8, sampler="ddim")
    whole = chain(trained[1], 8, seed=3, num_trajectories=8)
    assert whole.frames is not None
    assert whole.times is not None
    for k in (0, 13):
        start = Start(whole.frames[k], int(whole.times[k]))
        again = chain(trained[1], 8, seed=3, start=start)
        np.testing.assert_allclose(again.samples, whole.samples, atol=1e-5)
    other = chain(trained[1], 8, seed=3, start=Start(whole.frames[0], 9), num_trajectories=1)
    assert other.times is not None
    assert other.times.tolist() == list(range(9, -1, -1))


def test_a_batch_of_starting_points_is_split_as_the_samples_are(trained):
    x = np.random.default_rng(0).normal(size=(11, 8, 8, 1)).astype(np.float32)
    one, many = (
        program(trained[0], devices, batch_size=size)(trained[1], 11, seed=3, start=Start(x, 7))
        for devices, size in ((1, 11), (3, 6))
    )
    np.testing.assert_allclose(many.samples, one.samples, atol=1e-5)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (Start(np.zeros((2, 8, 8, 1)), 5), "it must be (3, 8, 8, 1)"),
        (Start(np.zeros((3, 8, 8, 1)), 0), "start.t is 0"),
        (Start(np.zeros((3, 8, 8, 1)), 21), "start.t is 21; it must be in 1 … 20"),
        (Start(np.zeros((3, 8, 8, 1)), 2.5), "start.t is 2.5; it must be in 1 … 20, whole"),  # type: ignore
    ],
)
def test_a_start_that_does_not_fit_is_refused(trained, start, words):
    with pytest.raises(UserError) as caught:
        program(trained[0])(trained[1], 3, seed=0, start=start)
    assert words in str(caught.value)


UP_AND_DOWN = np.array([20, 14, 8, 14, 8, 2, 8, 2, 0])


def test_a_chain_may_go_up_and_down_on_any_devices(trained):
    one, many = (
        program(trained[0], devices, times=UP_AND_DOWN)(trained[1], 8, seed=3, num_trajectories=2)
        for devices in (1, 8)
    )
    np.testing.assert_allclose(many.samples, one.samples, atol=1e-5)
    np.testing.assert_array_equal(one.times, UP_AND_DOWN)
    assert program(trained[0], times=UP_AND_DOWN).calls == 6
    assert program(trained[0], times=UP_AND_DOWN, guidance=1.0).calls == 12


# --- what the network is given, and what is done to its guess ------------------------------------


def test_an_image_beside_x_t_goes_with_its_sample(monkeypatch):
    monkeypatch.setitem(MODELS, "beside", Beside)
    experiment = build(
        dataclasses.replace(
            TINY,
            model=BesideConfig(),
            train=dataclasses.replace(TINY.train, label_dropout=0.0),
        )
    )
    image = np.random.default_rng(0).normal(size=(11, 8, 8, 1))
    given = Conditioning(image=jnp.asarray(image), image_noise=jnp.arange(11))
    x_t, t = jnp.zeros((11, 8, 8, 1)), jnp.array(3)
    params = experiment.model.init(jax.random.key(0), x_t, t, given, train=False)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    one, many = (
        program(experiment, devices, batch_size=size) for devices, size in ((1, 11), (3, 6))
    )
    expected = one(params, 11, seed=3, conditioning=given).samples
    split = many(params, 11, seed=3, conditioning=given).samples
    np.testing.assert_allclose(split, expected, atol=1e-5)
    swapped = given._replace(image=jnp.concatenate([image[:10], -image[10:]]))
    changed_last = np.abs(one(params, 11, seed=3, conditioning=swapped).samples - expected)
    assert changed_last[10].max() > 1e-3
    assert changed_last[:10].max() < 1e-5
    for part, words in (
        (None, "conditioning.image is missing"),
        (image[:4], "conditioning.image has the shape (4, 8, 8, 1); it must have 11 rows"),
        (np.zeros(image.shape, np.uint8), "conditioning.image has the type uint8; give floats"),
    ):
        with pytest.raises(UserError) as caught:
            one(params, 11, seed=3, conditioning=given._replace(image=part))
        assert words in str(caught.value)
    with pytest.raises(UserError, match="give the classes of the samples as labels"):
        one(params, 11, seed=3, conditioning=given._replace(labels=np.zeros(11, int)))
    for levels in (np.arange(11) + 0.5, np.arange(11) - 1, np.arange(11) + 20):
        with pytest.raises(UserError, match="image_noise must be whole numbers in 0 … 20"):
            one(params, 11, seed=3, conditioning=given._replace(image_noise=levels))


def inpainting(denoiser, known):
    def inpainted(x_t, t):
        found = denoiser(x_t, t)
        return found._replace(x_0=found.x_0.at[:, :4].set(known))

    return inpainted


def test_an_operator_puts_each_samples_known_pixels_into_the_guess_of_x_0(trained):
    known = np.linspace(-0.9, 0.9, 11 * 4 * 8, dtype=np.float32).reshape(11, 4, 8, 1)
    plain = program(trained[0])(trained[1], 11, seed=3).samples
    for devices, size in ((1, 11), (3, 6)):
        chain = program(
            trained[0], devices, batch_size=size, operators=(Operator(inpainting, None),)
        )
        filled = chain(trained[1], 11, seed=3, operands=(known,)).samples
        np.testing.assert_allclose(filled[:, :4], known, atol=1e-6)
        assert np.abs(filled[:, 4:] - plain[:, 4:]).max() > 1e-3
        assert (np.abs(filled[:, 4:]) <= 1).all()
    with pytest.raises(UserError, match=r"an operator's data has the shape .8, .* have 11 rows"):
        chain(trained[1], 11, seed=3, operands=(known[:8],))


# --- what a carry may hold ------------------------------------------------------------------------


class Remembering(NamedTuple):
    x: Any
    x_0: Any
    history: Any
    """`[2, B, …]`: the batch is not its first axis."""
    weights: Any
    """`[8]`: as long as the batch, and no batch."""
    steps: Any


def remembering(schedule):
    """The mean of the last two guesses of x_0, by DDIM: it remembers arrays and numbers."""
    plain = make_sampler("ddim", schedule)

    def init(x):
        twice = jnp.stack([jnp.zeros_like(x)] * 2)
        return Remembering(x, jnp.zeros_like(x), twice, jnp.ones(8), jnp.zeros((), jnp.int32))

    def step(denoiser, carry, row, keys):
        x_0, eps, *_ = denoiser(carry.x, row.t)
        history = jnp.where(carry.steps == 0, x_0, jnp.stack([x_0, carry.history[0]]))
        c = row.coefficients
        x_s = c.data_scale * history.mean(0) * carry.weights[3] + c.eps_scale * eps
        return Remembering(x_s, x_0, history, carry.weights, carry.steps + 1)

    return Sampler(plain.plan, init, step, plain.calls)


def test_each_leaf_of_a_carry_lies_where_it_belongs(trained, monkeypatch):
    """Over all devices along its batch axis, whichever that is, or whole on each device."""
    monkeypatch.setitem(SAMPLERS, "remembering", remembering)
    one, many = (program(trained[0], devices, sampler="remembering", steps=4) for devices in (1, 8))
    found = [run(trained[1], 8, seed=3).samples for run in (one, many)]
    np.testing.assert_allclose(found[1], found[0], atol=3e-5)
    carry = many._start(np.uint32(3), jnp.arange(8, dtype=jnp.uint32), None)
    shards = jax.tree.map(lambda leaf: leaf.sharding.shard_shape(leaf.shape), carry)
    image = (1, 8, 8, 1)
    assert shards == Remembering(image, image, (2, *image), (8,), ())


@pytest.fixture(scope="module")
def draw(trained):
    """Draws samples in two steps, with one compiled program for all tests."""
    return functools.partial(program(trained[0], steps=2, batch_size=8), trained[1])


def test_a_sample_without_a_class_is_that_of_the_label_that_training_drops(trained):
    experiment, params = trained
    drawn = program(experiment)(params, 3, seed=3, labels=[-1, 2])
    assert drawn.labels is not None
    assert drawn.labels.tolist() == [-1, 2, -1]
    guided = program(experiment, guidance=2.0)(params, 3, seed=3, labels=-1)
    np.testing.assert_allclose(guided.samples[0], drawn.samples[0], atol=1e-4)
    config = changed(TINY, train={"label_dropout": 0.0})
    always = program(build(config))
    with pytest.raises(UserError, match='"no class" needs a network trained with some labels'):
        always(params, 3, seed=3, labels=-1)


@pytest.mark.parametrize("labels", [3, [3], [3, 1], np.array([3, 1, 0]), range(5)])
def test_labels_are_taken_in_turn(labels, draw):
    drawn = draw(5, seed=0, labels=labels)
    turn = list(np.ravel(labels))
    assert drawn.labels.tolist() == [turn[i % len(turn)] for i in range(5)]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([10], "labels: there is no class 10; they are the whole numbers 0 … 9"),
        ([1.5], "no class 1.5; they are the whole numbers 0 … 9"),
        ([1.0], "no class 1.0"),
        ([True], "no class True"),
        ([2**70], "no class 1180591620717411303424"),
        ([-2], "no class -2"),
        ([], "0 labels for 2 samples"),
        ([0, 1, 2], "3 labels for 2 samples"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, words, draw):
    with pytest.raises(UserError, match=words):
        draw(2, seed=0, labels=labels)


@pytest.mark.parametrize(
    ("num", "first", "words"),
    [
        (1, 2**32, "first is 4294967296; it must be at most 4,294,967,295"),
        (2, 2**32 - 1, "the last sample of a seed is 4294967295"),
        (1, -1, "first is -1; it must be 0 or more"),
        (1, 10**400, "first is 1000"),
        (2.5, 0, "samples is 2.5; it must be a whole number"),
        (2**33, 0, "at most 4,294,967,296"),
    ],
)
def test_samples_that_a_seed_does_not_have_are_refused(num, first, words, draw):
    with pytest.raises(UserError, match=words):
        draw(num, seed=0, first=first)


def test_the_last_sample_of_a_seed_is_not_the_first(draw):
    last = draw(1, seed=0, first=2**32 - 1)
    first = draw(1, seed=0, labels=last.labels)
    assert not np.array_equal(last.samples, first.samples)


def test_more_samples_than_memory_holds_are_refused_before_any_is_drawn(draw, monkeypatch):
    shape = TINY.data.example_shape
    held = 3 * 4 * (1 + math.prod(shape))
    monkeypatch.setattr(chain, "free_bytes", lambda: held)
    seen = []
    assert len(draw(3, seed=0).samples) == 3
    with pytest.raises(OutOfMemory, match="4 samples need"):
        draw(4, seed=0, progress=lambda done, total: seen.append(done))
    with pytest.raises(OutOfMemory, match="3 samples with 1 trajectories need"):
        draw(3, seed=0, num_trajectories=1)
    assert seen == []
    monkeypatch.setattr(chain, "free_bytes", lambda: None)
    assert len(draw(4, seed=0).samples) == 4
