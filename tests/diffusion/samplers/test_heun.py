import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import make_sampler, make_schedule, plan_chain, q_conditional, sample
from ddpm_jax.diffusion.schedules import noise_to_data, time_of
from ddpm_jax.typing import Prediction
from tests.diffusion.mixture import single_gaussian
from tests.diffusion.samplers.float64 import SCHEDULE, slopes

T = 200
SHORT = make_schedule("linear", T, beta_1=5e-4, beta_T=0.1)


def test_it_is_of_second_order():
    first, last = noise_to_data(SCHEDULE, np.array([1000, 20])) ** (1 / 7)
    chains = [
        np.concatenate([[1000.0], time_of(SCHEDULE, -2 * np.log(inner)), [20.0]])
        for n in (20, 40)
        for inner in [(np.linspace(first, last, n + 1) ** 7)[1:-1]]
    ]
    (slope,) = slopes(make_sampler("heun", SCHEDULE), chains)
    assert 1.8 < slope < 2.3


def test_churn_adds_the_noise_of_the_forward_process():
    """A denoiser that says x_0 = 0 and eps = 0 shows t̂, a whole time, and what was added."""
    sampler = make_sampler("heun", SHORT, s_churn=1.0, s_noise=1.5)
    times, n = np.array([120, 60, 0]), 20_000
    plan = sampler.plan(times)
    raised = plan.t.astype(int)
    wanted = time_of(SHORT, -2 * np.log((2**0.5) * noise_to_data(SHORT, times[:-1])))
    np.testing.assert_array_equal(raised, np.rint(wanted))
    for k, (t, up) in enumerate(zip(times[:-1], raised, strict=True)):
        scale, variance = q_conditional(SHORT, t=np.array([up]), s=np.array([t]), ndim=1)
        np.testing.assert_allclose(plan.churn_scale[k], scale)
        np.testing.assert_allclose(plan.churn_noise[k], 1.5 * np.sqrt(variance))
    # The churned x_t of data from a Gaussian has the variance of x_t̂, and the step starts there.
    keys = jax.vmap(jax.random.key)(jnp.arange(n))
    seen = []

    def denoiser(x_t, t):
        jax.debug.callback(lambda x, t: seen.append((int(t), float(x.var()))), x_t, t, ordered=True)
        return Prediction(jnp.zeros_like(x_t), jnp.zeros_like(x_t))

    rows = plan_chain(sampler, SHORT, times)
    jax.block_until_ready(
        sample(sampler, denoiser, jnp.ones((n, 1)), rows=rows, keys=keys, frames=0)[0]
    )
    jax.effects_barrier()
    first, variance = seen[0]
    assert first == raised[0]
    np.testing.assert_allclose(variance, plan.churn_noise[0] ** 2, rtol=5 * np.sqrt(2 / n))


def test_churn_is_only_where_it_is_asked_for_and_never_above_T():
    times = np.array([T, 150, 100, 50, 1, 0])
    noise = noise_to_data(SHORT, times)
    plan = make_sampler("heun", SHORT, s_churn=2.0, s_min=noise[3], s_max=noise[1]).plan(times)
    np.testing.assert_array_equal(plan.t > times[:-1], [False, True, True, True, False])
    everywhere = make_sampler("heun", SHORT, s_churn=100.0).plan(times.astype(float))
    assert everywhere.t[0] == T
    raised = noise_to_data(SHORT, everywhere.t[1:]) / noise[1:-1]
    np.testing.assert_allclose(raised[1:], np.sqrt(2), rtol=1e-6)
    assert not make_sampler("heun", SHORT).plan(times).churn_noise.any()


def test_churned_chains_stay_with_the_data():
    """By moments: N(0.3, 0.5²) through 40 steps with much noise."""
    sampler = make_sampler("heun", SHORT, s_churn=10.0)
    keys = jax.vmap(jax.random.key)(jnp.arange(4096))
    x_T = jax.vmap(lambda key: jax.random.normal(key, (1,)))(keys)
    rows = plan_chain(sampler, SHORT, np.arange(T, -1, -5))
    denoiser = single_gaussian(0.3, 0.5).denoiser(SHORT)
    x, _ = jax.jit(lambda rows: sample(sampler, denoiser, x_T, rows=rows, keys=keys))(rows)
    assert abs(x.mean() - 0.3) < 5 * 0.5 / np.sqrt(4096) + 0.01
    np.testing.assert_allclose(x.std(), 0.5, rtol=5 / np.sqrt(2 * 4096) + 0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"s_churn": -1.0}, "s_churn is -1: it must be 0 or more"),
        ({"s_min": 2.0, "s_max": 1.0}, "s_max is 1: it must be at least s_min, which is 2"),
        ({"s_noise": float("nan")}, "s_noise is nan: it must be 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make_sampler("heun", SHORT, **options)
