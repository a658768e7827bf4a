import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import override
from ddpm_jax.diffusion import SAMPLERS
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram, _chunk, make_denoiser, write_samples
from tests.tiny import TINY, StepLoop, changed


@pytest.fixture(scope="module")
def trained():
    """A few steps are enough for a network whose output depends on x_t, t and the label."""
    trainer = StepLoop()
    state, _ = trainer.run(trainer.init(), 6)
    return trainer.experiment, jax.tree.map(np.asarray, state.params)


def program(experiment, devices=1, **options):
    options = override(TINY.sample, options)
    return SampleProgram(experiment, make_mesh(devices=jax.devices()[:devices]), options)


@pytest.fixture(scope="module")
def sixteen(trained):
    return program(trained[0])(trained[1], 16, seed=3)


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


def test_the_same_program_gives_the_same_pixels(trained, sixteen):
    again = program(trained[0])(trained[1], 16, seed=3)
    np.testing.assert_array_equal(again.samples, sixteen.samples)
    other = program(trained[0])(trained[1], 16, seed=4)
    assert np.abs(other.samples - sixteen.samples).mean() > 0.1


def test_samples_are_float32_on_the_scale_of_the_data(sixteen):
    assert sixteen.samples.dtype == np.float32
    assert np.abs(sixteen.samples).max() <= 1
    np.testing.assert_array_equal(sixteen.labels, np.arange(16) % 10)


def test_the_film_begins_with_noise_and_ends_with_the_samples(trained, sixteen):
    filmed = program(trained[0])(trained[1], 16, seed=3, num_trajectories=4)
    np.testing.assert_array_equal(filmed.samples, sixteen.samples)
    assert filmed.frames is not None
    assert filmed.frames.shape[1:] == (4, 8, 8, 1)
    np.testing.assert_array_equal(filmed.frames[-1], sixteen.samples[:4])
    assert filmed.frames[0].std() == pytest.approx(1, abs=0.2)
    assert sixteen.frames is None


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


def test_guidance_leads_away_from_the_unlabelled_prediction(trained):
    experiment, params = trained
    labels = jnp.arange(4)
    x_t = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    t = jnp.asarray(10)

    def eps(labels, weight):
        options = dataclasses.replace(TINY.sample, guidance=weight, clip=False)
        return make_denoiser(experiment, params, labels, options)(x_t, t).eps

    with_label, without = eps(labels, 0.0), eps(jnp.full(4, 10), 0.0)
    assert np.abs(with_label - without).max() > 1e-4
    np.testing.assert_allclose(
        eps(labels, 2.0), with_label + 2.0 * (with_label - without), atol=1e-4
    )


def test_clipping_keeps_x_0_within_the_scale(trained):
    experiment, params = trained
    x_t = 5 * jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    for clip, reached in ((True, 1.0), (False, np.inf)):
        options = dataclasses.replace(TINY.sample, clip=clip)
        x_0 = make_denoiser(experiment, params, jnp.arange(4), options)(x_t, jnp.asarray(3)).x_0
        assert (np.abs(x_0).max() <= 1) == (reached == 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 21}, "sample.steps is 21; it must be at most T, which is 20"),
        ({"sampler": "ddpm", "sampler.eta": 0.5}, "left out for ddpm, which has none"),
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


@pytest.mark.parametrize(
    ("labels", "words"),
    [([10], "there is no class 10; they are 0 … 9"), ([-1], "no class -1"), ([1, 2], "2 labels")],
)
def test_labels_that_do_not_exist_are_refused(trained, labels, words):
    with pytest.raises(UserError) as caught:
        program(trained[0])(trained[1], 1, seed=0, labels=labels)
    assert words in str(caught.value)


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


def test_arrays_are_written_with_their_labels(sixteen, tmp_path):
    write_samples(tmp_path / "some.npz", sixteen)
    with np.load(tmp_path / "some.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["samples"], sixteen.samples)
        np.testing.assert_array_equal(found["labels"], sixteen.labels)
        assert sorted(found) == ["labels", "samples"]
