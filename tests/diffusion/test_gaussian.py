import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    SCHEDULES,
    forward_variance,
    gaussian_kl,
    log_variance,
    make_schedule,
    posterior_variance,
    q_conditional,
    q_mean_variance,
    q_posterior,
    q_sample,
    q_step,
    variance_fraction,
)
from ddpm_jax.diffusion.gaussian import posterior_coefficients
from ddpm_jax.typing import Prediction

T = 100
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
# Neighbours and long strides, from both ends of the chain.
PAIRS = [(1, 0), (2, 1), (50, 49), (T, T - 1), (T, 0), (90, 10), (37, 36)]


def reference(name):
    """β and ᾱ in float64 over 0…T, by their definition."""
    betas = np.concatenate([[0.0], SCHEDULES[name](T)])
    return betas, np.cumprod(1 - betas)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@every_schedule
def test_steps_compose_to_the_direct_distribution(name):
    """Equation (1), T times over, has the mean and the variance of equation (2) at every t."""
    schedule = make_schedule(name, T)
    one, none = jnp.ones((1, 1)), jnp.zeros((1, 1))
    mean, variance = one, 0.0
    for step in range(1, T + 1):
        t = jnp.asarray(step)
        kept = q_step(schedule, one, t, none)
        added = q_step(schedule, none, t, one)
        mean, variance = kept * mean, kept**2 * variance + added**2
        direct = q_mean_variance(schedule, one, t)
        np.testing.assert_allclose(mean, direct[0], rtol=3e-5)
        np.testing.assert_allclose(variance, direct[1], rtol=3e-5)


def test_q_sample_has_the_moments_it_names():
    schedule = make_schedule("linear", T)
    x_0, t = normal(0, 3, 2), jnp.asarray([1, 50, T])
    mean, variance = q_mean_variance(schedule, x_0, t)
    np.testing.assert_allclose(q_sample(schedule, x_0, t, jnp.zeros((3, 2))), mean)
    noise_only = q_sample(schedule, jnp.zeros((3, 2)), t, jnp.ones((3, 2)))
    np.testing.assert_allclose(noise_only**2, jnp.broadcast_to(variance, (3, 2)), rtol=1e-6)


def test_noise_is_added_in_float32_to_half_precision_data():
    schedule, t = make_schedule("linear", T), jnp.asarray(1)
    x_0, eps = normal(0, 3, 2).astype(jnp.bfloat16), normal(1, 3, 2)
    for noised in (q_sample(schedule, x_0, t, eps), q_step(schedule, x_0, t, eps)):
        assert noised.dtype == jnp.float32
        assert (noised != x_0).all()  # in bfloat16 the noise of t = 1 would vanish


@every_schedule
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_conditional_is_the_quotient_of_two_directs(name, t, s):
    """Equation (3) against float64."""
    _, alpha_bar = reference(name)
    alpha, beta = q_conditional(make_schedule(name, T), t=jnp.asarray(t), s=jnp.asarray(s), ndim=2)
    np.testing.assert_allclose(alpha, np.sqrt(alpha_bar[t] / alpha_bar[s]), rtol=1e-6)
    np.testing.assert_allclose(beta, 1 - alpha_bar[t] / alpha_bar[s], rtol=1e-6)


@every_schedule
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_posterior_is_bayes_rule(name, t, s):
    """q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0): precisions add, and so do weighted means."""
    _, alpha_bar = reference(name)
    x_0, x_t = normal(0, 4, 3), normal(1, 4, 3)
    times = {"t": jnp.asarray(t), "s": jnp.asarray(s)}
    mean, variance = q_posterior(make_schedule(name, T), x_0, x_t, **times)
    if s == 0:
        np.testing.assert_array_equal(mean, x_0)
        assert variance == 0
        return
    ratio = alpha_bar[t] / alpha_bar[s]
    prior, likelihood = 1 / (1 - alpha_bar[s]), ratio / (1 - ratio)
    expected = prior * np.sqrt(alpha_bar[s]) * x_0 + likelihood * x_t / np.sqrt(ratio)
    np.testing.assert_allclose(variance, 1 / (prior + likelihood), rtol=1e-6)
    np.testing.assert_allclose(mean, expected / (prior + likelihood), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_step_keeps_float32_s_digits_and_a_plan_float64_s(name):
    """β̃ of s = t - 1 by its definition, (1 - ᾱ_s)/(1 - ᾱ_t) β_t, at every t of a long schedule."""
    schedule, t = make_schedule(name, 1000), np.arange(2, 1001)
    betas = np.append(0, SCHEDULES[name](1000)).astype(np.longdouble)
    noise = 1 - np.cumprod(1 - betas)
    expected = (noise[t - 1] / noise[t] * betas[t]).astype(np.float64)
    on_host = posterior_variance(schedule, t=t, s=t - 1, ndim=1)
    np.testing.assert_allclose(on_host, expected, rtol=1e-12)
    compiled = jax.jit(lambda t: posterior_variance(schedule, t=t, s=t - 1, ndim=1))
    np.testing.assert_allclose(compiled(jnp.asarray(t)), expected, rtol=6e-7)


@every_schedule
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_going_back_with_x_0_known_lands_on_the_marginal(name, t, s):
    """If x_t ~ q(x_t | x_0) then x_s ~ q(x_s | x_0), for any stride."""
    schedule, x_0 = make_schedule(name, T), jnp.full((1, 1), 0.7)
    times = {"t": jnp.asarray(t), "s": jnp.asarray(s)}
    mean_t, variance_t = q_mean_variance(schedule, x_0, times["t"])
    mean, variance = q_posterior(schedule, x_0, mean_t, **times)
    slope = q_posterior(schedule, 0 * x_0, jnp.ones((1, 1)), **times)[0]
    expected_mean, expected_variance = q_mean_variance(schedule, x_0, times["s"])
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-5)
    np.testing.assert_allclose(slope**2 * variance_t + variance, [[expected_variance]], rtol=1e-5)


@pytest.mark.parametrize("name", ["posterior", "beta"])
def test_variances_are_the_ones_of_the_equations_and_traced_times_agree(name):
    schedule = make_schedule("cosine", T)
    variance = {"posterior": posterior_variance, "beta": forward_variance}[name]
    x = normal(0, len(PAIRS), 2)
    of_equation = {
        "posterior": lambda t, s: q_posterior(schedule, x, x, t=t, s=s)[1],
        "beta": lambda t, s: q_conditional(schedule, t=t, s=s, ndim=2)[1],
    }
    t, s = (jnp.asarray(times) for times in zip(*PAIRS, strict=True))
    each = jax.jit(lambda t, s: variance(schedule, t=t, s=s, ndim=2))(t, s)
    assert each.shape == (len(PAIRS), 1)
    np.testing.assert_allclose(each, of_equation[name](t, s), rtol=1e-6)
    for i in range(len(PAIRS)):
        one = variance(schedule, t=t[i], s=s[i], ndim=2)
        np.testing.assert_allclose(each[i, 0], one, rtol=1e-6)


@every_schedule
def test_numpy_times_give_the_same_coefficients_in_float64(name):
    schedule = make_schedule(name, T)
    times = [np.array(each) for each in zip(*PAIRS, strict=True)]

    def coefficients(t, s):
        of = {"t": t, "s": s, "ndim": 1}
        return (
            *q_conditional(schedule, **of),
            *posterior_coefficients(schedule, **of),
            posterior_variance(schedule, **of),
        )

    on_host = coefficients(*times)
    for host, device in zip(on_host, coefficients(*map(jnp.asarray, times)), strict=True):
        assert host.dtype == np.float64
        np.testing.assert_allclose(host, device, rtol=1e-6)


LOG = {"log_posterior": jnp.asarray(-3.0), "log_beta": jnp.asarray(-1.0)}
PLAIN = Prediction(jnp.zeros((2, 1)), jnp.zeros((2, 1)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("posterior", -3.0), ("beta", -1.0), ("fixed_small", -3.0), ("fixed_large", -1.0)],
)
def test_fixed_variances_are_the_bounds_under_either_name(name, expected):
    assert log_variance(variance_fraction(name, PLAIN), **LOG) == expected


def test_a_learned_variance_lies_between_the_bounds_or_is_missed_in_a_line():
    given = PLAIN._replace(variance_fraction=jnp.array([[0.0], [0.25]]))
    f = variance_fraction("learned", given)
    np.testing.assert_allclose(log_variance(f, **LOG), [[-3.0], [-2.5]])
    with pytest.raises(ValueError, match=r"'learned' needs a network .* 2 outputs per chann"):
        variance_fraction("learned", PLAIN)
    with pytest.raises(ValueError, match="did you mean beta"):
        variance_fraction("betta", PLAIN)


def test_kl_against_the_integral_and_zero_for_equals():
    mean_1, log_variance_1, mean_2, log_variance_2 = 0.3, -1.0, -0.5, 0.4
    x = np.linspace(-12, 12, 20001)
    log_1 = -0.5 * ((x - mean_1) ** 2 / np.exp(log_variance_1) + log_variance_1)
    log_2 = -0.5 * ((x - mean_2) ** 2 / np.exp(log_variance_2) + log_variance_2)
    integrand = np.exp(log_1) / np.sqrt(2 * np.pi) * (log_1 - log_2)
    arguments = [jnp.asarray(v) for v in (mean_1, log_variance_1, mean_2, log_variance_2)]
    np.testing.assert_allclose(gaussian_kl(*arguments), np.trapezoid(integrand, x), rtol=1e-5)
    assert gaussian_kl(*arguments[:2], *arguments[:2]) == 0


def test_kl_keeps_digits_for_nearly_equal_variances():
    """½(expm1(d) - d) ≈ d²/4: written with the ratio of variances it would be all rounding."""
    d, zero = jnp.asarray(-4e-5), jnp.asarray(0.0)
    np.testing.assert_allclose(gaussian_kl(zero, d, zero, zero), 4e-10, rtol=0.02)
