import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    CLIPPINGS,
    clip,
    continuous,
    make_clipping,
    make_schedule,
    q_sample,
)
from ddpm_jax.typing import Prediction

T = 50
SCHEDULE = make_schedule("linear", T, beta_T=0.1)
# One example at every time.
TIMES = jnp.arange(1, T + 1)
X_0, EPS = jax.random.normal(jax.random.key(0), (2, T, 4, 3, 1))
X_T = q_sample(SCHEDULE, X_0, TIMES, EPS)


def assert_agrees(prediction, x_t, t):
    np.testing.assert_allclose(
        q_sample(SCHEDULE, prediction.x_0, t, prediction.eps), x_t, atol=1e-5
    )


def test_clip_keeps_x_0_in_range_and_eps_in_agreement():
    def denoiser(x_t, t):
        return Prediction(3 * X_0, EPS)

    clipped = clip(SCHEDULE)(denoiser)(X_T, TIMES)
    np.testing.assert_array_equal(clipped.x_0, jnp.clip(3 * X_0, -1, 1))
    assert_agrees(clipped, X_T, TIMES)
    wider = make_clipping("clip", SCHEDULE, low=-0.5, high=2.0)(denoiser)(X_T, TIMES)
    assert (wider.x_0.min(), wider.x_0.max()) == (-0.5, 2)
    assert_agrees(wider, X_T, TIMES)


def test_every_clipping_passes_the_variance_through():
    given = Prediction(3 * X_0, EPS, variance_fraction=jnp.abs(EPS))
    for name in CLIPPINGS:
        found = make_clipping(name, SCHEDULE)(lambda x_t, t: given)(X_T, TIMES)
        np.testing.assert_array_equal(found.variance_fraction, given.variance_fraction)
    found = make_clipping("none", SCHEDULE)(lambda x_t, t: given)(X_T, TIMES)
    assert found is given


def test_every_clipping_keeps_agreement_between_whole_times_too():
    """At t + ½, x_t is (x_0, eps) by the tables that lie between, and is so after clipping."""
    fractions = TIMES - 0.5
    between, index = continuous(SCHEDULE, fractions), jnp.arange(T)
    x_t = q_sample(between, 3 * X_0, index, EPS)
    for name in CLIPPINGS:
        found = make_clipping(name, SCHEDULE)(lambda x, t: Prediction(3 * X_0, EPS))(x_t, fractions)
        agreeing = q_sample(between, found.x_0, index, found.eps)
        np.testing.assert_allclose(agreeing, x_t, atol=1e-5)


def test_eps_is_kept_if_asked_for():
    for name in ("clip", "dynamic"):
        found = make_clipping(name, SCHEDULE, eps="kept")(lambda x, t: Prediction(3 * X_0, EPS))(
            X_T, TIMES
        )
        again = make_clipping(name, SCHEDULE)(lambda x, t: Prediction(3 * X_0, EPS))(X_T, TIMES)
        np.testing.assert_array_equal(found.x_0, again.x_0)
        np.testing.assert_array_equal(found.eps, EPS)
        assert np.abs(again.eps - EPS).max() > 0.1


def test_dynamic_thresholding_is_a_threshold_of_each_example():
    """NumPy's quantile, example by example; within [-1, 1] nothing changes."""
    small = 0.2 * X_0[:1]
    given = jnp.concatenate([small, 3 * X_0[1:]])
    found = make_clipping("dynamic", SCHEDULE, quantile=0.9)(lambda x, t: Prediction(given, EPS))(
        X_T, TIMES
    )
    np.testing.assert_array_equal(found.x_0[0], given[0])
    for x, of in zip(found.x_0[1:], given[1:], strict=True):
        s = max(1, np.quantile(np.abs(of), 0.9))
        np.testing.assert_allclose(x, np.clip(of, -s, s) / s, atol=1e-6)
        assert np.abs(x).max() <= 1
    assert_agrees(found, X_T, TIMES)


def test_dynamic_thresholding_of_at_most_1_is_the_clip():
    denoiser = lambda x, t: Prediction(3 * X_0, EPS)  # noqa: E731
    found = make_clipping("dynamic", SCHEDULE, most=1.0)(denoiser)(X_T, TIMES)
    np.testing.assert_allclose(found.x_0, clip(SCHEDULE)(denoiser)(X_T, TIMES).x_0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("clip", {"eps": "raw"}, "eps is 'raw': it must be recomputed or kept"),
        ("dynamic", {"quantile": 99.5}, "quantile is 99.5: it must be above 0 and at most 1"),
        ("dynamic", {"most": 0.5}, "most is 0.5: it must be 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_clipping(name, SCHEDULE, **options)
