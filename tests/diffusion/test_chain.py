"""What chains promise to samplers that don't exist yet, by small ones made here."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    SAMPLERS,
    Sampler,
    SamplerState,
    advance,
    begin,
    chain_calls,
    make_sampler,
    make_schedule,
    plan_chain,
    q_conditional,
    sample,
    sample_noise,
    time_steps,
)
from ddpm_jax.diffusion.samplers.contract import one_call_a_step, standard_normal, start
from ddpm_jax.typing import Prediction, RecallingDenoiser
from tests.diffusion.mixture import THREE_BLOBS, single_gaussian

T = 1000
# Ends at a noise that the solvers' variable σ below reaches in even steps.
SCHEDULE = make_schedule("linear", T, beta_T=0.005)
SIGMA = SCHEDULE.sqrt_one_minus_alpha_bar.astype(float) / SCHEDULE.sqrt_alpha_bar
UP_AND_DOWN = np.array([100, 80, 60, 80, 60, 30, 60, 80, 60, 30, 0])


def keys_of(num):
    return jax.vmap(jax.random.key)(jnp.arange(num))


def cut(rows, a, b):
    return jax.tree.map(lambda leaf: leaf[a:b], rows)


# --- two solvers of dy/dσ = eps, where y = x / sqrt(ᾱ) --------------------------------------------


class Euler(NamedTuple):
    scale_t: Any
    scale_s: Any
    h: Any


def euler_plan(times):
    t, s = times[:-1], times[1:]
    data = SCHEDULE.sqrt_alpha_bar.astype(float)
    return Euler(1 / data[t], data[s], SIGMA[s] - SIGMA[t])


class HeunState(NamedTuple):
    x: Any
    x_0: Any
    calls: Any  # a number without a batch


def heun(upward: Literal["renoise", "step"] = "renoise"):
    """Second order by two calls a step, but for the last, which ends where eps has no meaning."""

    def init(x):
        return HeunState(x, jnp.zeros_like(x), jnp.zeros((), int))

    def step(denoiser, carry, row, keys):
        c = row.coefficients
        t, s = jnp.maximum(row.t, 1), jnp.maximum(row.s, 1)
        first = denoiser(carry.x, t)
        y = c.scale_t * carry.x
        x_s = c.scale_s * (y + c.h * first.eps)

        def correct(x_s):
            second = denoiser(x_s, s)
            return c.scale_s * (y + c.h * (first.eps + second.eps) / 2), second.x_0, 2

        x_s, x_0, calls = jax.lax.cond(row.s > 0, correct, lambda x: (x, first.x_0, 1), x_s)
        return HeunState(x_s, x_0, carry.calls + calls)

    def calls(times):
        return 2 * (len(times) - 1) - int(times[-1] == 0)

    return Sampler(euler_plan, init, step, calls, upward)


class Adams(NamedTuple):
    euler: Euler
    weight: Any


class AdamsState(NamedTuple):
    x: Any
    x_0: Any
    eps: Any
    steps: Any  # a number without a batch


def adams(planned=None):
    """Second order by the last two eps, weighted by the plan; its history starts with none."""

    def plan(times):
        if planned is not None:
            planned.append(times.tolist())
        euler = euler_plan(times)
        before = np.concatenate([[np.inf], euler.h[:-1]])
        return Adams(euler, euler.h / (2 * before))

    def init(x):
        return AdamsState(x, jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros((), int))

    def step(denoiser, carry, row, keys):
        c, prediction = row.coefficients, denoiser(carry.x, row.t)
        eps = prediction.eps + c.weight * (prediction.eps - carry.eps)
        x_s = c.euler.scale_s * (c.euler.scale_t * carry.x + c.euler.h * eps)
        return AdamsState(x_s, prediction.x_0, prediction.eps, carry.steps + 1)

    return Sampler(plan, init, step, one_call_a_step)


@pytest.mark.parametrize("solver", [heun, adams])
def test_solvers_are_of_second_order(solver):
    """Against the exact solution for N(μ, c²): y - μ grows as sqrt(c² + σ²).

    They stop at t = 10: the last step to 0 is of first order for one of them.
    """
    mean, scale, end = 0.4, 0.5, 10
    sampler, denoiser = solver(), single_gaussian(mean, scale).denoiser(SCHEDULE)
    x_T = sample_noise(keys_of(16), (1,))
    deviation = x_T / SCHEDULE.sqrt_alpha_bar[-1] - mean
    growth = np.sqrt((scale**2 + SIGMA[end] ** 2) / (scale**2 + SIGMA[-1] ** 2))
    exact = SCHEDULE.sqrt_alpha_bar[end] * (mean + growth * deviation)
    run = jax.jit(lambda rows: sample(sampler, denoiser, x_T, rows=rows, keys=keys_of(16))[0])
    steps, errors = np.array([10, 20, 40]), []
    for n in steps:
        # Even in σ, so that every step is short.
        wanted = np.linspace(SIGMA[-1], SIGMA[end], n + 1)
        times = np.interp(wanted, SIGMA, np.arange(T + 1)).round().astype(int)
        errors.append(np.abs(run(plan_chain(sampler, SCHEDULE, times)) - exact).max())
    slopes = -np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert (slopes > 1.7).all(), errors


@pytest.mark.parametrize("times", [time_steps(T, 5), UP_AND_DOWN, np.array([30, 20, 40, 20])])
def test_a_chain_counts_the_calls_that_it_makes(times):
    sampler, denoiser = heun(), THREE_BLOBS.denoiser(SCHEDULE)
    rows, x = plan_chain(sampler, SCHEDULE, times), sample_noise(keys_of(4), (2,))
    carry, made = sampler.init(x), 0
    for k in range(len(rows.t)):
        before = int(carry.calls)
        carry = advance(sampler, denoiser, carry, cut(rows, k, k + 1), keys_of(4))
        made += max(0, int(carry.calls) - before)
    assert made == chain_calls(sampler, times)
    assert chain_calls(sampler, time_steps(T, 5)) == 2 * 5 - 1


# --- plans ----------------------------------------------------------------------------------------


def test_a_plan_sees_all_times_and_each_fall_of_a_chain_that_rises():
    planned = []
    times = time_steps(T, 20)
    plan_chain(adams(planned), SCHEDULE, times)
    assert planned == [times.tolist()]
    planned.clear()
    plan_chain(adams(planned), SCHEDULE, UP_AND_DOWN)
    assert planned == [[100, 80, 60], [80, 60, 30], [80, 60, 30, 0]]


@pytest.mark.parametrize("times", [time_steps(T, 20), UP_AND_DOWN])
@pytest.mark.parametrize("make", [adams, heun, lambda: make_sampler("ddpm", SCHEDULE)])
def test_pieces_of_a_chain_are_the_uncut_chain_bit_for_bit(make, times):
    sampler, denoiser = make(), THREE_BLOBS.denoiser(SCHEDULE)
    keys, rows = keys_of(4), plan_chain(make(), SCHEDULE, times)
    run = jax.jit(lambda carry, rows: advance(sampler, denoiser, carry, rows, keys))
    begin = sampler.init(sample_noise(keys, (2,)))
    whole, carry = run(begin, rows), begin
    for a in range(0, len(rows.t), 5):
        carry = run(carry, cut(rows, a, a + 5))
    jax.tree.map(np.testing.assert_array_equal, carry, whole)


def test_a_renoising_starts_the_sampler_again():
    """Its history is of another x: the last fall has three steps, and is the chain of its own."""
    sampler, denoiser, keys = adams(), THREE_BLOBS.denoiser(SCHEDULE), keys_of(4)
    rows = plan_chain(sampler, SCHEDULE, UP_AND_DOWN)
    run = jax.jit(lambda carry, rows: advance(sampler, denoiser, carry, rows, keys))
    risen = run(sampler.init(sample_noise(keys, (2,))), cut(rows, 0, 7))
    assert (risen.steps, int(np.abs(risen.eps).max())) == (0, 0)
    last = run(risen, cut(rows, 7, 10))
    assert last.steps == 3
    alone = plan_chain(sampler, SCHEDULE, UP_AND_DOWN[7:])
    np.testing.assert_array_equal(run(sampler.init(risen.x), alone).x, last.x)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([5], "at least two times"),
        ([[5, 4]], "at least two times"),
        ([5, 5, 4], "stays at t = 5"),
        ([T + 1, 4], f"times are in 0…{T}; {T + 1} is not"),
        ([4, -1], "-1 is not"),
        ([np.nan, 1.0], "nan is not"),
    ],
)
def test_a_list_that_is_no_chain_is_refused(times, message):
    with pytest.raises(ValueError, match=message):
        plan_chain(adams(), SCHEDULE, np.array(times))


# --- noise ----------------------------------------------------------------------------------------


# Its samples are the noise of the last step.
NOISE = Sampler(
    lambda times: (),
    start,
    lambda denoiser, carry, row, keys: SamplerState(
        standard_normal(keys, carry.x.shape[1:]), carry.x_0
    ),
    one_call_a_step,
)


def zero(x_t, t):
    return Prediction(0 * x_t, 0 * x_t)


def noises(times, dim=64):
    """The noise of each interval: a step's is its sample, a renoising's is told from its result."""
    rows, keys, found = plan_chain(NOISE, SCHEDULE, np.array(times)), keys_of(3), []
    carry = NOISE.init(jnp.zeros((3, dim)))
    for k in range(len(rows.t)):
        before, carry = carry.x, advance(NOISE, zero, carry, cut(rows, k, k + 1), keys)
        up = rows.renoising is not None and rows.renoising.rises[k]
        if up:
            alpha, beta = q_conditional(SCHEDULE, t=rows.s[k : k + 1], s=rows.t[k : k + 1], ndim=1)
            found.append((carry.x - alpha * before) / np.sqrt(beta))
        else:
            found.append(carry.x)
    return np.array(found)


def test_noise_is_numbered_by_time_and_visit():
    draws = plan_chain(NOISE, SCHEDULE, UP_AND_DOWN).draw
    visit = (T + 1) * np.array([0, 0, 0, 1, 1, 0, 2, 2, 3, 1])
    np.testing.assert_array_equal(draws, UP_AND_DOWN[:-1] + visit)
    falling = plan_chain(NOISE, SCHEDULE, time_steps(T, T))
    np.testing.assert_array_equal(falling.draw, falling.t)
    assert falling.renoising is None
    # Two fractional times of one whole number are two visits; x_T is the first visit of 0.
    fractions = plan_chain(NOISE, SCHEDULE, np.array([2.75, 2.25, 1.0, 0.0, 1.5]))
    np.testing.assert_array_equal(fractions.draw, [2, 2 + T + 1, 1, T + 1])


def test_no_two_intervals_share_their_noise_and_first_visits_have_a_falling_chains():
    found = noises(UP_AND_DOWN)
    rows = np.concatenate([found.reshape(-1, 64), np.asarray(sample_noise(keys_of(3), (64,)))])
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5.5 / np.sqrt(64)
    falling = noises([100, 80, 60, 30, 0])
    np.testing.assert_array_equal(found[:2], falling[:2])
    np.testing.assert_allclose(found[5], noises([30, 60])[0], atol=1e-5)


def test_going_up_lands_on_the_marginal():
    """For data at one point, x_t of a chain is N(sqrt(ᾱ_t) x_0, 1 - ᾱ_t), however it got there."""
    n, x_0 = 8192, 0.3
    sampler, denoiser = (
        make_sampler("ddpm", SCHEDULE),
        single_gaussian(x_0, 0.0).denoiser(SCHEDULE),
    )
    keys = keys_of(n)
    run = jax.jit(lambda x, rows: sample(sampler, denoiser, x, rows=rows, keys=keys)[0])
    x = np.sqrt(1 - SCHEDULE.alpha_bar[600]) * sample_noise(keys, (1,))
    x += SCHEDULE.sqrt_alpha_bar[600] * x_0
    found = run(x, plan_chain(sampler, SCHEDULE, np.array([600, 300, 500, 200, 400])))
    mean, variance = SCHEDULE.sqrt_alpha_bar[400] * x_0, 1 - SCHEDULE.alpha_bar[400]
    assert abs(found.mean() - mean) < 5 * np.sqrt(variance / n)
    np.testing.assert_allclose(found.var(), variance, rtol=5 * np.sqrt(2 / n))
    known = run(jnp.full((n, 1), x_0), plan_chain(sampler, SCHEDULE, np.array([0, 400])))
    np.testing.assert_allclose(known.var(), variance, rtol=5 * np.sqrt(2 / n))


# --- where chains start, what they remember, and the way up ---------------------------------------


def test_a_chain_may_start_from_any_x_at_any_time():
    sampler, denoiser = make_sampler("ddpm", SCHEDULE), THREE_BLOBS.denoiser(SCHEDULE)
    keys, times = keys_of(8), time_steps(T, 20)
    run = jax.jit(lambda x, rows: sample(sampler, denoiser, x, rows=rows, keys=keys)[0])
    x_T = sample_noise(keys, (2,))
    x_t = run(x_T, plan_chain(sampler, SCHEDULE, times[:13]))
    whole = run(x_T, plan_chain(sampler, SCHEDULE, times))
    np.testing.assert_array_equal(run(x_t, plan_chain(sampler, SCHEDULE, times[12:])), whole)


def test_a_denoiser_may_depend_on_the_last_guess_of_x_0():
    """One that adds 1 to the x̂_0 of before: it starts from zeros, and a cut forgets nothing."""
    sampler, keys = make_sampler("ddim", SCHEDULE), keys_of(4)
    counting = RecallingDenoiser(
        jnp.zeros_like,
        lambda x_0: lambda x_t, t: Prediction(x_0 + 1, 0 * x_t, memory=x_0 + 1),
    )
    rows = plan_chain(sampler, SCHEDULE, time_steps(T, 20))
    first = begin(sampler, counting, sample_noise(keys, (2,)))
    half = advance(sampler, counting, first, cut(rows, 0, 7), keys)
    np.testing.assert_array_equal(half.x_0, 7)
    whole = advance(sampler, counting, half, cut(rows, 7, 20), keys)
    np.testing.assert_array_equal(whole.x_0, 20)
    np.testing.assert_allclose(whole.x, 20, rtol=1e-6)


def test_memory_is_of_every_call_and_ends_where_the_chain_goes_up():
    """Heun's method calls twice a step, once in its last one."""
    sampler, keys = heun(), keys_of(2)
    counting = RecallingDenoiser(
        lambda x: jnp.zeros(()),
        lambda calls: lambda x_t, t: Prediction(x_t, 0 * x_t, memory=calls + 1),
    )
    for times, calls in ((np.array([60, 40, 20, 0]), 5), (np.array([60, 40, 50, 20, 0]), 3)):
        rows = plan_chain(sampler, SCHEDULE, times)
        first = begin(sampler, counting, sample_noise(keys, (2,)))
        assert advance(sampler, counting, first, rows, keys).memory == calls


def test_a_method_may_go_up_by_steps_of_its_own():
    """Inversion by an ODE: up from data to noise and down again, by one sampler and no noise."""
    sampler, denoiser = heun(upward="step"), THREE_BLOBS.denoiser(SCHEDULE)
    down = time_steps(T, 200)
    times = np.concatenate([down[::-1], down[1:]])
    rows = plan_chain(sampler, SCHEDULE, times)
    assert rows.renoising is None
    x_0 = THREE_BLOBS.sample(jax.random.key(0), 64)
    run = jax.jit(
        lambda rows: sample(sampler, denoiser, x_0, rows=rows, keys=keys_of(64), frames=2)
    )
    again, trajectory = run(rows)
    np.testing.assert_allclose(again, x_0, atol=0.02)
    assert np.abs(trajectory[1] - x_0).max() > 0.5
    assert chain_calls(sampler, times) == 2 * 400 - 1


@pytest.mark.parametrize(
    ("name", "parameterization"), [("ddpm", "x_0"), *((name, "v") for name in SAMPLERS)]
)
def test_a_chain_from_a_zero_terminal_snr_gives_the_data(name, parameterization):
    """x_T says nothing there, so the first x̂_0 is the data's mean; N(0.4, 0.5²) comes out."""
    schedule = make_schedule("cosine", 100, zero_terminal_snr=True)
    row = PARAMETERIZATIONS[parameterization]
    exact = single_gaussian(0.4, 0.5).denoiser(schedule, row)
    sampler, keys = make_sampler(name, schedule), jax.random.split(jax.random.key(0), 4096)
    x_T, end = sample_noise(keys, (1,)), jnp.asarray(schedule.T)
    np.testing.assert_allclose(exact(x_T, end).x_0, 0.4, atol=1e-6)
    rows = plan_chain(sampler, schedule, time_steps(100, 100))
    x, _ = jax.jit(lambda: sample(sampler, exact, x_T, rows=rows, keys=keys))()
    np.testing.assert_allclose([x.mean(), x.std()], [0.4, 0.5], atol=0.03)
