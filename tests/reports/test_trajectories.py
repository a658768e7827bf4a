"""The arrays of trajectories are what the equations and the network say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import make_schedule
from ddpm_jax.reports.trajectories import (
    noised_directly,
    noised_stepwise,
    predicted_x_0,
    spaced_frames,
)
from ddpm_jax.sampling.chain import Samples
from ddpm_jax.sampling.run import load
from ddpm_jax.typing import Conditioning

pytestmark = pytest.mark.usefixtures("one_device")

KEY = jax.random.key(0)
TIMES = np.arange(11)
SCHEDULE = make_schedule("linear", 10, beta_1=0.1, beta_T=0.8)


@pytest.mark.parametrize("way", [noised_directly, noised_stepwise])
def test_each_way_has_the_moments_of_q(way):
    x_t = way(SCHEDULE, jnp.full((20_000, 1), 0.7), TIMES, KEY)[..., 0]
    assert x_t.shape == (11, 20_000)
    np.testing.assert_array_equal(x_t[0], np.float32(0.7))
    alpha_bar = np.asarray(SCHEDULE.alpha_bar)
    np.testing.assert_allclose(x_t.mean(1), 0.7 * np.sqrt(alpha_bar), atol=0.03)
    np.testing.assert_allclose(x_t.var(1), 1 - alpha_bar, atol=0.03)


def test_steps_add_fresh_noise_and_the_direct_way_keeps_one():
    x_0 = jnp.zeros((20_000, 1))
    for t in (2, 6, 10):
        pair = np.array([t - 1, t])
        before, after = noised_directly(SCHEDULE, x_0, pair, KEY)
        assert np.corrcoef(before[:, 0], after[:, 0])[0, 1] > 0.999
        x_t = noised_stepwise(SCHEDULE, x_0, np.array([0, *pair]), KEY)[..., 0]
        beta = float(SCHEDULE.beta[t])
        added = x_t[2] - np.sqrt(1 - beta) * x_t[1]
        assert added.var() == pytest.approx(beta, rel=0.05)
        assert abs(np.corrcoef(added, x_t[1])[0, 1]) < 0.03


def test_fewer_times_are_some_of_all_times():
    x_0 = jax.random.normal(KEY, (3, 2))
    some = np.array([0, 3, 4, 10])
    np.testing.assert_allclose(
        noised_stepwise(SCHEDULE, x_0, some, KEY),
        noised_stepwise(SCHEDULE, x_0, TIMES, KEY)[some],
        atol=1e-6,
    )


def test_predictions_are_x_0_solved_from_the_networks_eps(folders):
    run = load(folders["pictures"])
    times, labels = np.array([0, 1, 20]), jnp.array([7, 2])
    x_t = np.array(jax.random.normal(KEY, (3, 2, 8, 8, 1)))
    found = predicted_x_0(run, x_t, times, labels)
    np.testing.assert_array_equal(found[0], x_t[0])
    schedule = run.experiment.schedule
    for k in (1, 2):
        t = jnp.asarray(times[k])
        eps = run.experiment.apply(
            run.params, jnp.asarray(x_t[k]), t, Conditioning(labels), train=False
        )
        noise = schedule.sqrt_one_minus_alpha_bar[t] * eps
        x_0 = np.clip((x_t[k] - noise) / schedule.sqrt_alpha_bar[t], -1, 1)
        np.testing.assert_allclose(found[k], x_0, atol=1e-3)
    others = predicted_x_0(run, x_t, times, jnp.array([7, 3]))
    np.testing.assert_allclose(others[:, 0], found[:, 0], atol=1e-5)
    assert np.abs(others[1:, 1] - found[1:, 1]).max() > 1e-5


def test_frames_are_evenly_spaced_over_the_chain_with_both_ends():
    frames = np.arange(51.0).reshape(51, 1, 1)
    drawn = Samples(frames[-1], None, frames, np.arange(1000, -1, -20))
    some, times = spaced_frames(drawn, 11)
    np.testing.assert_array_equal(times, np.arange(1000, -1, -100))
    np.testing.assert_array_equal(some[:, 0, 0], np.arange(0, 51, 5))
    assert len(spaced_frames(drawn, 100)[0]) == 51
    with pytest.raises(ValueError, match="num_trajectories"):
        spaced_frames(Samples(frames[-1], None, None, None), 11)


@pytest.mark.parametrize("kind", ["pictures", "points"])
def test_frames_know_their_times(kind, folders):
    drawn = load(folders[kind]).sample(2, num_trajectories=2)
    np.testing.assert_array_equal(drawn.times, np.arange(20, -1, -1))
    assert load(folders[kind]).sample(2).times is None
