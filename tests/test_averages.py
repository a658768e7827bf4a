"""Averages by a power function: their weights, and what combinations of them can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.averages import (
    AVERAGES,
    LONGEST,
    Profile,
    combine,
    ema_init,
    ema_update,
    exponent,
    power,
    power_lengths,
    profile_products,
)
from ddpm_jax.tables import Choice

LENGTHS = (0.01, 0.05, 0.1, 0.2, 0.25, LONGEST)


def profile(each, at):
    """Equation (1) at some times, in float64."""
    gamma = exponent(each.sigma_rel)
    inside = np.where(at <= each.step, at / each.step, 0.0)
    return (gamma + 1) / each.step * inside**gamma * (at <= each.step)


def integral(function, end):
    """By Gauss and Legendre, exact to rounding for what is smooth on (0, end)."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return float(weights @ function((nodes + 1) * end / 2)) * end / 2


@pytest.mark.parametrize("sigma_rel", LENGTHS)
def test_a_length_is_the_standard_deviation_of_its_profile(sigma_rel):
    only = Profile(sigma_rel, 1)
    mean = integral(lambda t: t * profile(only, t), 1)
    variance = integral(lambda t: (t - mean) ** 2 * profile(only, t), 1)
    assert integral(lambda t: profile(only, t), 1) == pytest.approx(1, abs=1e-7)
    assert variance**0.5 == pytest.approx(sigma_rel, rel=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.2887, np.nan])
def test_no_other_length_exists(sigma_rel):
    with pytest.raises(ValueError, match=r"^sigma_rel is .*: it must be above 0 and at most 0\.28"):
        exponent(sigma_rel)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, LONGEST])
def test_the_updates_weigh_each_step_by_its_part_of_the_profile(sigma_rel):
    """Parameters that are one in one step each show the weight of every step."""
    steps = 60
    averages = {"it": power(sigma_rel=sigma_rel)}

    def step(ema, n):
        return ema_update(averages, ema, jnp.eye(steps)[n], n + 1), None

    start = ema_init(averages, jnp.full(steps, 99.0))
    found, _ = jax.lax.scan(step, start, jnp.arange(steps))
    order = exponent(sigma_rel) + 1
    share = (np.arange(steps + 1) / steps) ** order
    np.testing.assert_allclose(found["it"], np.diff(share), rtol=2e-5, atol=1e-7)


def test_late_in_a_long_run_a_step_still_has_its_weight():
    decay = power(sigma_rel=0.05)(jnp.float32(800_000))
    assert 1 - float(decay) == pytest.approx((exponent(0.05) + 1) / 800_000, rel=2e-3)


def test_products_of_profiles_are_their_integrals():
    some = [Profile(0.05, 40), Profile(0.1, 30), Profile(LONGEST, 40), Profile(0.2, 7)]
    found = profile_products(some, some[:3])
    for row, a in zip(found, some, strict=True):
        for value, b in zip(row, some[:3], strict=True):
            end = min(a.step, b.step)
            expected = integral(lambda t, a=a, b=b: profile(a, t) * profile(b, t), end)
            assert value == pytest.approx(expected, rel=1e-7)


KNOWN = [Profile(length, step) for step in range(10, 401, 10) for length in (0.05, 0.1)]


def test_the_nearest_combination_is_nearer_than_others_and_says_how_near():
    wanted = Profile(0.15, 400)
    weights, missing = combine(KNOWN, [wanted])
    assert weights.sum() == pytest.approx(1, abs=1e-7)

    def distance(weights):
        """By a sum over fine steps, and not by the closed form."""
        t = (np.arange(40_000) + 0.5) / 100
        off = profile(wanted, t) - weights @ np.array([profile(each, t) for each in KNOWN])
        return np.sqrt((off**2).sum() / (profile(wanted, t) ** 2).sum())

    least = distance(weights[:, 0])
    assert missing[0] == pytest.approx(least, rel=1e-2)
    assert least < 2e-3
    random = np.random.default_rng(0)
    for _ in range(5):
        other = random.normal(size=len(KNOWN))
        other -= other.mean()
        assert distance(weights[:, 0] + 1e-3 * other) > least


def test_a_known_average_is_itself_and_an_impossible_one_is_told():
    weights, missing = combine(KNOWN, [KNOWN[-1], Profile(0.002, 400)])
    np.testing.assert_allclose(weights[:, 0], np.eye(len(KNOWN))[-1], atol=1e-6)
    assert missing[0] < 1e-6
    assert missing[1] > 0.5


def test_averages_that_are_equal_do_no_harm():
    weights, missing = combine([*KNOWN, *KNOWN], [Profile(0.15, 400)])
    alone, least = combine(KNOWN, [Profile(0.15, 400)])
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-6)
    assert missing[0] == pytest.approx(least[0], abs=1e-5)
    assert np.abs(weights).sum() < 2 * np.abs(alone).sum()


def test_only_averages_by_power_have_a_length():
    choices = {"ema": Choice("ema", decay=0.9), "short": Choice("power", sigma_rel=0.05)}
    assert power_lengths(choices) == {"short": 0.05}
    assert AVERAGES["power"] is power
