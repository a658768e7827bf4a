"""Likelihoods of data whose density is known, under the exact denoiser."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from ddpm_jax.data import open_source
from ddpm_jax.data.settings import PointsData
from ddpm_jax.diffusion import continuous, discretized_log_likelihood, make_schedule
from ddpm_jax.evaluation.facts import RunFacts
from ddpm_jax.evaluation.metrics import METRICS
from ddpm_jax.evaluation.metrics.measurement import Averages
from ddpm_jax.typing import Conditioning
from tests.diffusion.mixture import THREE_BLOBS, GaussianMixture, single_gaussian

PIXELS = np.arange(256) / 127.5 - 1


def schedule_of(T):
    """A schedule whose SNR at both ends does not depend on T."""
    return make_schedule("linear", T, beta_1=0.02 / T, beta_T=12 / T)


# x_T keeps 0.0025 of the data: with more, the normal prior alone is off by 0.01 bits.
TO_NOISE = make_schedule("linear", 100, beta_1=2e-4, beta_T=0.24)


def facts_of(schedule, shape, *, fractional=True):
    return RunFacts(shape, schedule, False, fractional)


def exact(mixture, schedule):
    """The denoiser of data whose numbers, or whose points, are drawn from the mixture."""
    width = mixture.means.shape[1]

    def denoiser(x_t, t):
        tables = schedule
        if jnp.issubdtype(t.dtype, jnp.floating):
            tables, t = continuous(schedule, t), jnp.arange(t.size).reshape(t.shape)
        found = mixture.predict(tables, x_t.reshape(-1, width), t)
        return found._replace(x_0=found.x_0.reshape(x_t.shape), eps=found.eps.reshape(x_t.shape))

    return lambda conditioning: denoiser


def measured(name, schedule, mixture, x_0, *, seed=0, **options) -> Any:
    """What a measurement gives for each example, as float64."""
    keys = jax.vmap(jax.random.key)(seed * len(x_0) + jnp.arange(len(x_0)))
    measure = METRICS[name](**options).measure(facts_of(schedule, x_0.shape[1:]))
    network = exact(mixture, schedule)
    program = jax.jit(lambda x_0, keys: measure(network, x_0, Conditioning(), keys))
    return {name: np.asarray(each, np.float64) for name, each in program(x_0, keys).items()}


def true_bits(mixture, x):
    """-log2 of the mixture's density, per dimension."""
    weights, means, scales = (np.asarray(each, np.float64) for each in mixture)
    squares = ((np.asarray(x, np.float64)[:, None] - means) ** 2).sum(-1) / scales**2
    dimensions = means.shape[1]
    log_parts = np.log(weights) - squares / 2 - dimensions * np.log(scales * np.sqrt(2 * np.pi))
    return -np.asarray(logsumexp(log_parts, axis=1)) / np.log(2) / dimensions


def kernels(size, scale):
    """The kernel density of the swiss roll."""
    points = np.asarray(open_source(PointsData(size=size)).gather(np.arange(size)).examples)
    return GaussianMixture(
        np.full(size, 1 / size, np.float32), points, np.full(size, scale, np.float32)
    )


@pytest.mark.parametrize(
    "mixture",
    [single_gaussian(0.4, 0.5), THREE_BLOBS, kernels(40, 0.15)],
    ids=["gaussian", "mixture", "kernels of the swiss roll"],
)
def test_the_ode_has_the_density_of_each_point(mixture):
    x_0 = mixture.sample(jax.random.key(0), 8)
    found = measured("ode_bits_per_dim", TO_NOISE, mixture, x_0)
    np.testing.assert_allclose(found["bits"], true_bits(mixture, x_0), atol=0.01)
    # Each point has its own steps, and none has those of the whole batch.
    assert len(set(found["calls"])) > 1


def test_the_ode_ends_where_no_data_is_left():
    none_left = make_schedule("linear", 100, beta_1=2e-4, beta_T=0.24, zero_terminal_snr=True)
    mixture = single_gaussian(0.4, 0.5)
    x_0 = mixture.sample(jax.random.key(0), 4)
    found = measured("ode_bits_per_dim", none_left, mixture, x_0)
    np.testing.assert_allclose(found["bits"], true_bits(mixture, x_0), atol=0.001)


def test_a_random_probe_has_the_right_mean():
    x_0 = jnp.repeat(THREE_BLOBS.sample(jax.random.key(1), 1), 32, axis=0)
    options = {"trace": "hutchinson", "tolerance": 1e-3}
    found = measured("ode_bits_per_dim", TO_NOISE, THREE_BLOBS, x_0, **options)["bits"]
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - true_bits(THREE_BLOBS, x_0[:1])[0]) < 4 * error + 0.02


@cache
def pictures():
    """8-bit pictures of independent pixels from N(0.1, 0.2²), and their true bits per dimension."""
    column = jnp.asarray(PIXELS, jnp.float32)[:, None]
    log_mass = discretized_log_likelihood(column, 0 * column + 0.1, jnp.asarray(0.2))[:, 0]
    levels = jax.random.categorical(jax.random.key(2), log_mass, shape=(48, 4, 4, 1))
    return column[levels, 0], -np.asarray(log_mass, np.float64)[levels].mean((1, 2, 3)) / np.log(2)


def test_the_ode_of_pixels_has_the_mass_of_their_bins():
    x_0, truth = (each[:8] for each in pictures())
    found = measured("ode_bits_per_dim", TO_NOISE, single_gaussian(0.1, 0.2), x_0)["bits"]
    np.testing.assert_allclose(found, truth, atol=0.01)


@cache
def bound_of_pictures(T):
    return measured("bits_per_dim", schedule_of(T), single_gaussian(0.1, 0.2), pictures()[0])


def test_the_bound_lies_above_the_likelihood_and_its_gap_falls_with_T():
    truth, gaps = pictures()[1], []
    for T in (20, 80, 320):
        gap = bound_of_pictures(T)["bound"] - truth
        gaps.append(gap.mean())
        assert gap.mean() > -2 * gap.std(ddof=1) / np.sqrt(len(gap))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


def test_the_bound_of_points_lies_above_their_density():
    x_0 = THREE_BLOBS.sample(jax.random.key(3), 1024)
    gaps = []
    for T in (20, 80):
        gap = measured("bits_per_dim", schedule_of(T), THREE_BLOBS, x_0)["bound"]
        gap -= true_bits(THREE_BLOBS, x_0)
        gaps.append(gap.mean())
        assert gap.mean() > -2 * gap.std(ddof=1) / np.sqrt(len(gap))
    assert gaps[0] > gaps[1]


def test_rate_and_distortion_are_the_bound_and_its_terms_lie_over_t():
    """As in improved-diffusion's table: the prior and the terms of t > 1, and that of t = 1."""
    found = bound_of_pictures(20)
    assert found["vb"].shape == found["mse"].shape == found["x_0_mse"].shape == (48, 20)
    np.testing.assert_allclose(found["rate"] + found["distortion"], found["bound"], rtol=1e-5)
    np.testing.assert_allclose(found["prior"] + found["vb"].sum(1), found["bound"], rtol=1e-5)
    np.testing.assert_array_equal(found["vb"][:, 0], found["distortion"])
    # An error of eps is one of x_0 at every t, times the SNR: equation (10); x̂_0 is clipped here.
    snr = np.exp(schedule_of(20).log_snr[1:])
    np.testing.assert_allclose(found["mse"], snr * found["x_0_mse"], rtol=1e-3)
    mean = {name: each.mean(0) for name, each in found.items()}
    values, arrays = METRICS["bits_per_dim"]().result(Averages(mean, mean))
    assert values["rate"] + values["distortion"] == pytest.approx(values["bits_per_dim"])
    assert arrays.keys() == {"vb", "vb_error", "mse", "x_0_mse"}


def test_a_term_is_its_divergence_by_quadrature():
    """L_{t-1} for data N(m, s²): the KL of two Gaussians, averaged over x_0 and x_t on a grid."""
    mean, scale, T = 0.1, 0.2, 20
    schedule, t = schedule_of(T), 7
    bar, before = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    beta = 1 - bar / before
    posterior = beta * (1 - before) / (1 - bar)
    x = np.linspace(-1.1, 1.3, 401)[:, None]
    z = np.linspace(-6, 6, 401)[None]
    x_t = np.sqrt(bar) * x + np.sqrt(1 - bar) * z
    gain = np.sqrt(bar) * scale**2 / (bar * scale**2 + 1 - bar)
    guess = mean + gain * (x_t - np.sqrt(bar) * mean)
    shift = np.sqrt(before) * beta / (1 - bar) * (x - guess)
    ratio = posterior / beta
    divergence = (ratio - 1 - np.log(ratio) + shift**2 / beta) / 2
    weight = norm.pdf(x, mean, scale) * norm.pdf(z)
    expected = (weight * divergence).sum() / weight.sum() / np.log(2)
    found = bound_of_pictures(T)["vb"][:, t - 1]
    assert abs(found.mean() - expected) < 4 * found.std(ddof=1) / np.sqrt(len(found))


def test_what_does_not_apply_is_told():
    few = facts_of(schedule_of(20), (2,), fractional=False)
    reasons = {name: METRICS[name]().obstacle(few) for name in ("bits_per_dim", "ode_bits_per_dim")}
    assert reasons["bits_per_dim"] is None
    assert "a table of whole times" in reasons["ode_bits_per_dim"]
    assert "predicts no variance" in METRICS["bits_per_dim"](variance="learned").obstacle(few)
    one = few._replace(schedule=make_schedule("linear", 1, beta_T=0.9))
    assert "at least two timesteps" in METRICS["bits_per_dim"]().obstacle(one)
    for options in ({"tolerance": 0.0}, {"start": 2.0}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))} is "):
            METRICS["ode_bits_per_dim"](**options)
