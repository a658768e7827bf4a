from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    make_sampler,
    make_schedule,
    plan_chain,
    sample,
    sample_noise,
    time_steps,
)
from ddpm_jax.diffusion.editing import between, inversion, repaint, repaint_times
from ddpm_jax.diffusion.operators import Measurement
from ddpm_jax.typing import Prediction
from tests.diffusion.mixture import single_gaussian


def keys_of(num):
    return jax.vmap(jax.random.key)(jnp.arange(num))


def test_repaint_goes_up_and_down_as_published():
    times = repaint_times(time_steps(250, 250), jump_length=10, jump_samples=10)
    assert len(times) == 4571
    steps = np.diff(times)
    assert (steps < 0).sum() == 2410
    assert set(steps.tolist()) == {-1, 1}
    assert (times[0], times[-1]) == (250, 0)
    # It turns up at 1, 11, … 231, nine times each.
    turns = times[1:-1][(steps[:-1] < 0) & (steps[1:] > 0)]
    assert {t: (turns == t).sum() for t in set(turns.tolist())} == dict.fromkeys(
        range(1, 232, 10), 9
    )
    sampler = make_sampler("ddpm", schedule := make_schedule("linear", 250))
    rows = plan_chain(sampler, schedule, times)
    assert len(set(rows.draw.tolist())) == len(rows.draw)  # Each visit has noise of its own.


def test_repaint_without_jumps_is_the_grid():
    times = time_steps(100, 20)
    np.testing.assert_array_equal(repaint_times(times, jump_length=5, jump_samples=1), times)
    for name in ("jump_length", "jump_samples"):
        with pytest.raises(ValueError, match=f"{name} is 0: it must be at least 1"):
            repaint_times(times, **{"jump_length": 5, "jump_samples": 5, name: 0})


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_repaint_draws_what_the_known_pixels_leave_open(name):
    """Two pixels of unit variance and correlation ρ: given one, the other is N(ρ y, 1 - ρ²)."""
    schedule, rho, n, y = make_schedule("cosine", 50), 0.8, 2048, 0.9
    covariance = np.array([[1, rho], [rho, 1]])

    def denoiser(x_t, t):
        data, noise = (
            jnp.asarray(table, jnp.float32)[t]
            for table in (schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar)
        )
        gain = data * covariance @ jnp.linalg.inv(data**2 * covariance + noise**2 * np.eye(2))
        x_0 = jnp.einsum("pq,bhqc->bhpc", gain, x_t)
        return Prediction(x_0, (x_t - data * x_0) / noise)

    known = np.broadcast_to(np.array([True, False])[None, None, :, None], (n, 1, 2, 1))
    given = Measurement(np.where(known, y, 0).astype(np.float32), known)
    sampler = repaint(make_sampler(name, schedule), schedule, given)
    times = repaint_times(time_steps(50, 50), jump_length=5, jump_samples=8)
    rows = plan_chain(sampler, schedule, times)
    keys = keys_of(n)
    run = jax.jit(partial(sample, sampler, denoiser))
    x, _ = run(sample_noise(keys, (1, 2, 1)), rows=rows, keys=keys)
    np.testing.assert_array_equal(x[:, 0, 0, 0], np.float32(y))
    drawn = np.asarray(x)[:, 0, 1, 0]
    sigma = np.sqrt(1 - rho**2)
    assert abs(drawn.mean() - rho * y) < 4 * sigma / np.sqrt(n) + 0.03
    assert abs(drawn.std() / sigma - 1) < 0.12


def test_inversion_finds_the_noise_of_the_data_with_an_error_of_first_order():
    """Against the ODE's exact solution for N(μ, c²): deviations scale from c to their x_T's."""
    schedule, mean, scale = make_schedule("linear", 4000, beta_T=0.005), 0.4, 0.5
    denoiser = single_gaussian(mean, scale).denoiser(schedule)
    sampler = inversion(make_sampler("ddim", schedule), schedule, None)
    x_0 = jnp.linspace(-1, 1, 16)[:, None]
    alpha_bar = schedule.alpha_bar[-1]
    spread = np.sqrt(alpha_bar * scale**2 + 1 - alpha_bar)
    exact = np.sqrt(alpha_bar) * mean + spread * (x_0 - mean) / scale
    steps, errors, back = np.array([20, 40, 80]), [], []
    run = jax.jit(partial(sample, sampler, denoiser))
    down = jax.jit(partial(sample, make_sampler("ddim", schedule), denoiser))
    for n in steps:
        times = time_steps(4000, int(n))
        x_T, _ = run(x_0, rows=plan_chain(sampler, schedule, times[::-1]), keys=keys_of(16))
        errors.append(np.abs(x_T - exact).max())
        rows = plan_chain(make_sampler("ddim", schedule), schedule, times)
        back.append(np.abs(down(x_T, rows=rows, keys=keys_of(16))[0] - x_0).max())
    for found in (errors, back):
        slopes = -np.diff(np.log(found)) / np.diff(np.log(steps))
        assert ((slopes > 0.8) & (slopes < 1.2)).all(), (errors, back)


def test_arcs_keep_the_norm_and_end_at_both_ends():
    first, last = jax.random.normal(jax.random.key(0), (2, 5, 4, 4, 1))
    for where, end in ((0.0, first), (1.0, last)):
        np.testing.assert_allclose(between(first, last, jnp.full(5, where)), end, atol=1e-6)
    half = np.asarray(between(first, last, jnp.full(5, 0.5)))
    norms = [np.sqrt((x**2).sum((1, 2, 3))) for x in (first, half, last)]
    np.testing.assert_allclose(norms[1], (norms[0] + norms[2]) / 2, rtol=1e-5)
    # Halfway is as far from both ends.
    unit = [x / n[:, None, None, None] for x, n in zip((first, half, last), norms, strict=True)]
    angles = [(unit[1] * unit[k]).sum((1, 2, 3)) for k in (0, 2)]
    np.testing.assert_allclose(*angles, rtol=1e-5)
    same = between(first, first, jnp.full(5, 0.3))
    np.testing.assert_allclose(same, first, atol=1e-5)
