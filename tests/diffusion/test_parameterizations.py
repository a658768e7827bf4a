import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    classifier_free_guidance,
    clip,
    make_schedule,
    q_sample,
)
from ddpm_jax.typing import Prediction
from tests.diffusion.mixture import THREE_BLOBS

T = 50
SCHEDULE = make_schedule("linear", T, beta_T=0.1)
# One example at every time.
TIMES = jnp.arange(1, T + 1)
X_0, EPS = jax.random.normal(jax.random.key(0), (2, T, 4, 3, 1))
X_T = q_sample(SCHEDULE, X_0, TIMES, EPS)
every_parameterization = pytest.mark.parametrize("name", PARAMETERIZATIONS)


def assert_agrees(prediction, x_t, t):
    np.testing.assert_allclose(
        q_sample(SCHEDULE, prediction.x_0, t, prediction.eps), x_t, atol=1e-5
    )


@every_parameterization
def test_the_target_recovers_x_0_and_eps(name):
    """To rounding, times the 1/α or 1/σ by which an error of x_t reaches the other quantity."""
    row = PARAMETERIZATIONS[name]
    output = row.target(SCHEDULE, X_0, EPS, TIMES)
    prediction = row.to_prediction(SCHEDULE, output, X_T, TIMES)
    np.testing.assert_allclose(prediction.x_0, X_0, atol=1e-5)
    np.testing.assert_allclose(prediction.eps, EPS, atol=1e-4)


@every_parameterization
def test_any_output_becomes_a_pair_that_agrees_with_x_t(name):
    row = PARAMETERIZATIONS[name]
    output = jax.random.normal(jax.random.key(1), X_T.shape)
    prediction = row.to_prediction(SCHEDULE, output, X_T, TIMES)
    assert_agrees(prediction, X_T, TIMES)
    again = row.target(SCHEDULE, prediction.x_0, prediction.eps, TIMES)
    np.testing.assert_allclose(again, output, atol=1e-4)


@every_parameterization
def test_one_time_for_all_is_that_time_for_each(name):
    row, t = PARAMETERIZATIONS[name], jnp.asarray(7)
    for one, each in zip(
        row.to_prediction(SCHEDULE, EPS, X_T, t)[:2],
        row.to_prediction(SCHEDULE, EPS, X_T, jnp.full(T, 7))[:2],
        strict=True,
    ):
        np.testing.assert_array_equal(one, each)


@every_parameterization
def test_a_half_precision_output_is_used_in_float32(name):
    row, output = PARAMETERIZATIONS[name], EPS.astype(jnp.bfloat16)
    narrow = row.to_prediction(SCHEDULE, output, X_T, TIMES)
    wide = row.to_prediction(SCHEDULE, output.astype(jnp.float32), X_T, TIMES)
    for a, b in zip(narrow[:2], wide[:2], strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)


@every_parameterization
def test_eps_loss_factor_is_what_an_error_of_the_output_does_to_eps(name):
    """Equation (9), by perturbing the output: the factor is the square of d eps / d output."""
    row, ones = PARAMETERIZATIONS[name], jnp.ones_like(X_T)
    moved = row.to_prediction(SCHEDULE, ones, X_T, TIMES).eps
    still = row.to_prediction(SCHEDULE, 0 * ones, X_T, TIMES).eps
    gain = (moved - still).reshape(T, -1).mean(1) ** 2
    factor = row.eps_loss_factor(jnp.asarray(SCHEDULE.log_snr)[TIMES])
    np.testing.assert_allclose(gain, factor, rtol=1e-4)


def test_clip_keeps_x_0_in_range_and_eps_in_agreement():
    prediction = Prediction(3 * X_0, EPS)
    clipped = clip(prediction, SCHEDULE, X_T, TIMES)
    np.testing.assert_array_equal(clipped.x_0, jnp.clip(3 * X_0, -1, 1))
    assert_agrees(clipped, X_T, TIMES)
    wider = clip(prediction, SCHEDULE, X_T, TIMES, low=-0.5, high=2)
    assert (wider.x_0.min(), wider.x_0.max()) == (-0.5, 2)
    assert_agrees(wider, X_T, TIMES)


def test_guidance_is_linear_in_its_weight_and_keeps_agreement():
    """w = 0 is conditional, w = -1 unconditional, and eps moves along the line through both."""
    x_t, t = X_T[:8, 0, :2, 0], TIMES[:8]
    given = THREE_BLOBS.denoiser(SCHEDULE)
    free = THREE_BLOBS._replace(means=-THREE_BLOBS.means).denoiser(SCHEDULE)
    for weight, expected in ((0.0, given(x_t, t)), (-1.0, free(x_t, t))):
        guided = classifier_free_guidance(given, free, weight)(x_t, t)
        np.testing.assert_allclose(guided.x_0, expected.x_0, atol=1e-5)
        np.testing.assert_allclose(guided.eps, expected.eps, atol=1e-5)
    guided = classifier_free_guidance(given, free, 1.5)(x_t, t)
    expected = 2.5 * given(x_t, t).eps - 1.5 * free(x_t, t).eps
    np.testing.assert_allclose(guided.eps, expected, atol=1e-5)
    assert np.abs(guided.eps - given(x_t, t).eps).max() > 0.1
    assert_agrees(guided, x_t, t)
