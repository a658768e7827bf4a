import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_ndtr

from ddpm_jax.diffusion import (
    LOSSES,
    PARAMETERIZATIONS,
    VARIANCES,
    WEIGHTINGS,
    discretized_log_likelihood,
    make_schedule,
    make_weighting,
    q_sample,
    vlb_prior,
    vlb_term,
)
from tests.diffusion.mixture import single_gaussian

T = 50
SCHEDULE = make_schedule("linear", T, beta_T=0.1)
TIMES = jnp.arange(1, T + 1)
LOG_SNR = jnp.asarray(SCHEDULE.log_snr)[TIMES]
PIXELS = jnp.arange(256, dtype=jnp.float32) / 127.5 - 1


@pytest.mark.parametrize(
    ("name", "expected"), [("l1", [1.25, 0]), ("l2", [2.34375, 0]), ("huber", [0.8515625, 0])]
)
def test_losses_by_hand(name, expected):
    """Errors within huber's 1 and beyond it, of both signs, on one example; none on the other."""
    error = jnp.asarray([0.25, -0.5, 2.0, -2.25])
    target = jnp.arange(8.0).reshape(2, 2, 2)
    output = target.at[0].add(error.reshape(2, 2))
    np.testing.assert_allclose(LOSSES[name](output, target), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_per_example_float32_and_zero_at_the_target(name):
    target = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    output = target + jnp.arange(3.0).reshape(3, 1, 1, 1)
    loss = LOSSES[name](output.astype(jnp.bfloat16), target.astype(jnp.bfloat16))
    assert (loss.shape, loss.dtype) == ((3,), jnp.float32)
    assert loss[0] == 0 < loss[1] < loss[2]
    one = LOSSES[name](output[1:2], target[1:2])
    np.testing.assert_allclose(one, LOSSES[name](output, target)[1:2], rtol=1e-6)


def weights(weighting, parameterization, **settings):
    return make_weighting(weighting, PARAMETERIZATIONS[parameterization], **settings)(LOG_SNR)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_weights_are_finite_and_positive_per_example(weighting, parameterization):
    weight = weights(weighting, parameterization)
    assert (weight.shape, weight.dtype) == ((T,), jnp.float32)
    assert np.isfinite(weight).all()
    assert (weight > 0).all()


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_no_weighting_is_the_plain_loss_of_whatever_is_predicted(parameterization):
    np.testing.assert_array_equal(weights("none", parameterization), 1)


@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "none"])
def test_one_error_weighs_the_same_in_every_parameterization(weighting):
    """The weighted losses of eps, x_0 and v agree at every t for one and the same mistake."""
    x_0, eps, slip = jax.random.normal(jax.random.key(0), (3, T, 6))
    x_t = q_sample(SCHEDULE, x_0, TIMES, eps)
    wrong = PARAMETERIZATIONS["eps"].to_prediction(SCHEDULE, eps + 0.3 * slip, x_t, TIMES)
    losses = {}
    for name, row in PARAMETERIZATIONS.items():
        output = row.target(SCHEDULE, wrong.x_0, wrong.eps, TIMES)
        loss = LOSSES["l2"](output, row.target(SCHEDULE, x_0, eps, TIMES))
        losses[name] = weights(weighting, name) * loss
    for loss in losses.values():
        np.testing.assert_allclose(loss, losses["eps"], rtol=1e-3)


def test_weights_by_their_papers_formulas():
    """Hang et al. 2023: min(SNR, γ) times 1, 1/SNR, 1/(SNR+1); Choi et al. 2022: 1/(k+SNR)^γ."""
    snr = np.exp(LOG_SNR)
    assert snr.min() < 3 < snr.max()
    divisor = {"x_0": 1.0, "eps": snr, "v": snr + 1}
    for name, by in divisor.items():
        weight = weights("min_snr", name, gamma=3.0)
        np.testing.assert_allclose(weight, np.minimum(snr, 3) / by, rtol=1e-5)
    weight = weights("p2", "eps", gamma=0.5, k=2.0)
    np.testing.assert_allclose(weight, (2 + snr) ** -0.5, rtol=1e-5)


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


def bound(schedule, mixture, x_0, variance):
    """The whole of equation (14) for each example, one draw of x_t at each t."""
    denoiser = mixture.denoiser(schedule)

    def term(t):
        eps = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), x_0.shape)
        x_t = q_sample(schedule, x_0, t, eps)
        return vlb_term(schedule, denoiser(x_t, t), x_0, x_t=x_t, t=t, variance=variance)

    terms = jax.jit(lambda ts: jax.lax.map(term, ts))(jnp.arange(1, schedule.T + 1))
    return vlb_prior(schedule, x_0) + terms.sum(0)


@pytest.mark.parametrize("variance", VARIANCES)
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
