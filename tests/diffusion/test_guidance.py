import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import (
    GUIDANCE,
    constant_weight,
    make_guidance,
    make_schedule,
    q_sample,
)
from ddpm_jax.typing import Prediction
from tests.diffusion.mixture import THREE_BLOBS

T = 50
SCHEDULE = make_schedule("linear", T, beta_T=0.1)
# One example at every time.
TIMES = jnp.arange(1, T + 1)
X_T = jax.random.normal(jax.random.key(0), (T, 2))
GIVEN = THREE_BLOBS.denoiser(SCHEDULE)
FREE = THREE_BLOBS._replace(means=-THREE_BLOBS.means).denoiser(SCHEDULE)


def guided(weight, x_t, t):
    return make_guidance("classifier_free", SCHEDULE)(GIVEN, FREE, weight)(x_t, t)


def assert_agrees(prediction, x_t, t):
    np.testing.assert_allclose(
        q_sample(SCHEDULE, prediction.x_0, t, prediction.eps), x_t, atol=1e-5
    )


def test_guidance_is_linear_in_its_weight_and_keeps_agreement():
    """w = 0 is conditional, w = -1 unconditional, and eps moves along the line through both."""
    x_t, t = X_T[:8], TIMES[:8]
    for weight, expected in ((0.0, GIVEN(x_t, t)), (-1.0, FREE(x_t, t))):
        found = guided(constant_weight(weight), x_t, t)
        np.testing.assert_allclose(found.x_0, expected.x_0, atol=1e-5)
        np.testing.assert_allclose(found.eps, expected.eps, atol=1e-5)
    found = guided(constant_weight(1.5), x_t, t)
    expected = 2.5 * GIVEN(x_t, t).eps - 1.5 * FREE(x_t, t).eps
    np.testing.assert_allclose(found.eps, expected, atol=1e-5)
    assert np.abs(found.eps - GIVEN(x_t, t).eps).max() > 0.1
    assert_agrees(found, x_t, t)


def test_the_weight_may_depend_on_t():
    """An interval of guidance is a weight that is 0 outside of it, for one time or one each."""

    def interval(t):
        return jnp.where((t > 10) & (t < 30), 2.0, 0.0)

    each = guided(interval, X_T, TIMES)
    inside = (TIMES > 10) & (TIMES < 30)
    plain, full = GIVEN(X_T, TIMES).x_0, guided(constant_weight(2.0), X_T, TIMES).x_0
    np.testing.assert_allclose(each.x_0, jnp.where(inside[:, None], full, plain), atol=1e-5)
    for k in (5, 20):
        one = guided(interval, X_T, TIMES[k])
        np.testing.assert_allclose(one.x_0[k], each.x_0[k], atol=1e-5)


def test_every_guidance_keeps_the_conditional_variance():
    fractions = {True: jnp.full_like(X_T, 0.2), False: jnp.full_like(X_T, 0.9)}

    def denoiser(conditional):
        return lambda x_t, t: Prediction(x_t, x_t, variance_fraction=fractions[conditional])

    for name in GUIDANCE:
        guide = make_guidance(name, SCHEDULE)
        found = guide(denoiser(True), denoiser(False), constant_weight(1.0))(X_T, TIMES)
        np.testing.assert_array_equal(found.variance_fraction, fractions[True])


def test_every_guidance_takes_times_between_whole_ones():
    def denoiser(scale):
        return lambda x_t, t: Prediction(scale * x_t, t[:, None] * x_t)

    for name in GUIDANCE:
        guided = make_guidance(name, SCHEDULE)(denoiser(2), denoiser(1), constant_weight(1.0))
        whole, between = guided(X_T, TIMES), guided(X_T, TIMES - 0.5)
        np.testing.assert_allclose(between.x_0, whole.x_0, atol=1e-5)
        np.testing.assert_allclose(between.eps, whole.eps - 0.5 * X_T, atol=1e-4)
