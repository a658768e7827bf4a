import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_ndtr
from scipy.stats import norm

from ddpm_jax.diffusion import (
    VARIANCES,
    decoder_of,
    discretized_log_likelihood,
    gaussian_log_density,
    make_schedule,
    q_sample,
    vlb_prior,
    vlb_term,
)
from ddpm_jax.typing import Prediction
from tests.diffusion.mixture import single_gaussian

T = 50
SCHEDULE = make_schedule("linear", T, beta_T=0.1)
fixed_variances = pytest.mark.parametrize(
    "variance", [name for name, f in VARIANCES.items() if f is not None]
)
PIXELS = jnp.arange(256, dtype=jnp.float32) / 127.5 - 1


@pytest.mark.parametrize("scale", [0.003, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("mean", [-1.0, -0.3, 0.001, 0.998, 1.4])
def test_decoder_masses_sum_to_one(mean, scale):
    x_0 = PIXELS[:, None]
    log_mass = discretized_log_likelihood(x_0, jnp.full_like(x_0, mean), jnp.asarray(scale))
    assert np.isfinite(log_mass).all()
    np.testing.assert_allclose(np.exp(np.asarray(log_mass, np.float64)).sum(), 1, rtol=1e-4)


def test_decoder_is_exact_in_both_tails():
    """Mirror images weigh the same, and 200 deviations out the mass is still that of float64."""
    x_0, scale = PIXELS[:, None], 0.01
    left = discretized_log_likelihood(x_0, jnp.full_like(x_0, -1), jnp.asarray(scale))
    right = discretized_log_likelihood(-x_0, jnp.full_like(x_0, 1), jnp.asarray(scale))
    np.testing.assert_allclose(left, right, rtol=1e-5)
    edges = (np.asarray(x_0, np.float64) + [[-1 / 255, 1 / 255]] + 1) / scale
    outer, inner = log_ndtr(-edges[1:-1]).T[::-1]
    expected = inner + np.log(-np.expm1(outer - inner))
    np.testing.assert_allclose(left[1:-1, 0], expected, rtol=1e-4)
    np.testing.assert_allclose(left[-1, 0], log_ndtr(-edges[-1, 0]), rtol=1e-4)


def test_prior_term_by_the_closed_form_and_small_for_a_long_chain():
    """Ho et al. section 4: about 1e-5 bits per dimension for the linear schedule of T = 1000."""
    x_0 = jnp.asarray([[0.0, 0.0], [1.0, -1.0]])
    alpha_bar = np.prod(1 - np.linspace(1e-4, 0.1, T))
    expected = 0.5 * (np.array([0, 1]) * alpha_bar - alpha_bar - np.log1p(-alpha_bar)) / np.log(2)
    np.testing.assert_allclose(vlb_prior(SCHEDULE, x_0), expected, rtol=1e-3)
    assert 1e-5 < vlb_prior(make_schedule("linear", 1000), x_0)[1] < 4e-5


@fixed_variances
def test_each_term_by_its_closed_form(variance):
    """L_0 is the mass of N(x̂_0, β̃_2) on the pixel's bin, whatever x_1 is; the others are (5).

    For x̂_0 = x_0 + δ, μ̃ differs by its factor of x_0 times δ.
    """
    x_0, delta = PIXELS[::16, None], 0.02
    for t in (1, 2, 3, T):
        time = jnp.asarray(t)
        x_t = q_sample(SCHEDULE, x_0, time, jnp.linspace(-2, 2, len(x_0))[:, None])
        guess = Prediction(x_0 + delta, jnp.zeros_like(x_0))
        found = vlb_term(SCHEDULE, guess, x_0, x_t=x_t, t=time, variance=variance)
        bar = np.cumprod(1 - np.append(0.0, np.linspace(1e-4, 0.1, T)))
        later = max(t, 2)
        beta = 1 - bar[later] / bar[later - 1]
        posterior = beta * (1 - bar[later - 1]) / (1 - bar[later])
        if t == 1:
            scale = jnp.asarray(np.sqrt(posterior), jnp.float32)
            expected = -discretized_log_likelihood(x_0, guess.x_0, scale)[:, 0]
        else:
            model = {"posterior": posterior, "beta": beta}[variance]
            gap = delta * np.sqrt(bar[t - 1]) * beta / (1 - bar[t])
            ratio = posterior / model
            expected = np.full(len(x_0), (ratio - 1 - np.log(ratio) + gap**2 / model) / 2)
        np.testing.assert_allclose(found, expected / np.log(2), rtol=2e-3)


def bound(schedule, mixture, x_0, variance):
    """The whole of equation (15) for each example, one draw of x_t at each t."""
    denoiser = mixture.denoiser(schedule)

    def term(t):
        eps = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), x_0.shape)
        x_t = q_sample(schedule, x_0, t, eps)
        return vlb_term(schedule, denoiser(x_t, t), x_0, x_t=x_t, t=t, variance=variance)

    terms = jax.jit(lambda ts: jax.lax.map(term, ts))(jnp.arange(1, schedule.T + 1))
    return vlb_prior(schedule, x_0) + terms.sum(0)


@fixed_variances
def test_the_bound_nears_the_entropy_for_the_exact_denoiser(variance):
    """For 8-bit data from N(0.1, 0.3²) it comes down to the true entropy as T grows.

    β is the right variance in the limit of small steps; β̃ is too small where the step from t to
    t - 1 removes a good part of all the noise there is, which is so for the first few t at any T.
    The masses of the data's own bins weigh the examples, so only x_t is random: over 256 levels
    with 16 draws each, its standard error is a few thousandths of a bit.
    """
    mixture, draws = single_gaussian(0.1, 0.3), 16
    x_0 = PIXELS[:, None]
    log_mass = discretized_log_likelihood(x_0, jnp.full_like(x_0, 0.1), jnp.asarray(0.3))[:, 0]
    entropy = -(jnp.exp(log_mass) * log_mass).sum() / np.log(2)
    gaps = []
    for T in (50, 400):
        schedule = make_schedule("linear", T, beta_1=0.01 / T, beta_T=10 / T)
        bits = bound(schedule, mixture, jnp.repeat(x_0, draws, 0), variance)
        gaps.append((jnp.exp(log_mass) * bits.reshape(256, draws).mean(1)).sum() - entropy)
    assert gaps[0] > gaps[1] > -0.02
    assert variance != "beta" or gaps[1] < 0.05


def test_bound_takes_one_time_or_one_each_and_has_finite_gradients():
    mixture, x_0 = single_gaussian(0.1, 0.3), PIXELS[::64, None]
    x_t = q_sample(SCHEDULE, x_0, jnp.asarray(1), jnp.ones_like(x_0))
    times = jnp.asarray([1, 2, 30, T])

    @jax.jit
    def term(t):
        return vlb_term(SCHEDULE, mixture.predict(SCHEDULE, x_t, t), x_0, x_t=x_t, t=t)

    for i, t in enumerate(times):
        np.testing.assert_allclose(term(times)[i], term(t)[i], rtol=1e-5)

    def total(guess):
        prediction = mixture.predict(SCHEDULE, x_t, times)._replace(x_0=guess)
        return vlb_term(SCHEDULE, prediction, x_0, x_t=x_t, t=times).sum()

    assert np.isfinite(jax.jit(jax.grad(total))(x_0)).all()
    prediction = mixture.predict(SCHEDULE, x_t, times)
    with pytest.raises(ValueError, match="did you mean beta"):
        vlb_term(SCHEDULE, prediction, x_0, x_t=x_t, t=times, variance="betta")


def test_a_learned_variance_gives_the_bound_of_either_fixed_one():
    """But for its decoder, which reaches from β̃_2, that of fixed variances, to β_1."""
    mixture, x_0 = single_gaussian(0.1, 0.3), PIXELS[::64, None]
    times = jnp.asarray([1, 2, 30, T])
    x_t = q_sample(SCHEDULE, x_0, times, jnp.ones_like(x_0))
    prediction = mixture.predict(SCHEDULE, x_t, times)

    def term(prediction, variance):
        return vlb_term(SCHEDULE, prediction, x_0, x_t=x_t, t=times, variance=variance)

    for f, fixed in ((0.0, "posterior"), (1.0, "fixed_large")):
        learned = prediction._replace(variance_fraction=jnp.full_like(x_t, f))
        found, expected = term(learned, "learned"), term(prediction, fixed)
        np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-5)
        assert (found[0] == pytest.approx(float(expected[0]), rel=1e-5)) == (f == 0)
    scale = jnp.sqrt(jnp.asarray(SCHEDULE.beta[1], jnp.float32))
    widest = -discretized_log_likelihood(x_0[:1], prediction.x_0[:1], scale)[0, 0] / np.log(2)
    assert float(found[0]) == pytest.approx(float(widest), rel=1e-5)
    with pytest.raises(ValueError, match="needs a network that predicts its variance"):
        term(prediction, "learned")


def test_the_density_of_points_is_that_of_float64():
    x_0, mean = jnp.asarray([[0.3, -2.0]]), jnp.asarray([[0.1, -1.9]])
    found = gaussian_log_density(x_0, mean, jnp.asarray(0.05))
    np.testing.assert_allclose(found, norm.logpdf([[0.3, -2.0]], [[0.1, -1.9]], 0.05), atol=1e-5)
    assert [decoder_of(shape) for shape in ((2,), (8, 8, 1))] == ["density", "discretized"]


def test_a_decoder_far_from_the_data_spoils_no_gradient_of_another_time():
    """Near T the x_0 of a predicted eps may be 10,000 times too large."""
    x_0 = jnp.zeros((1, 1))

    def term(guess):
        prediction = Prediction(guess, jnp.zeros_like(guess))
        return vlb_term(SCHEDULE, prediction, x_0, x_t=x_0, t=jnp.asarray(T)).sum()

    gradient = jax.grad(term)(jnp.full((1, 1), 1e18))
    assert np.isfinite(gradient).all()
