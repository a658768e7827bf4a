from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    SAMPLERS,
    advance,
    make_sampler,
    make_schedule,
    q_conditional,
    sample,
    sample_noise,
    time_steps,
)
from ddpm_jax.typing import Prediction
from tests.diffusion.mixture import THREE_BLOBS, single_gaussian

T = 200
SCHEDULE = make_schedule("linear", T, beta_1=5e-4, beta_T=0.1)
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def keys_of(num):
    return jax.vmap(jax.random.key)(jnp.arange(num))


@cache
def program(name, parameterization="eps", frames=0, **options):
    """One compiled chain over THREE_BLOBS for each sampler and number of samples and steps."""
    sampler = make_sampler(name, SCHEDULE, **options)
    denoiser = THREE_BLOBS.denoiser(SCHEDULE, PARAMETERIZATIONS[parameterization])

    @jax.jit
    def run(keys, times):
        x_T = sample_noise(keys, (2,))
        return sample(sampler, denoiser, x_T, times=times, keys=keys, frames=frames)

    return run


@every_sampler
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_samples_follow_the_data_distribution(name, parameterization):
    """Mean, covariance and the components' shares and sizes, by particles.

    The tolerance is 5 standard errors of as many independent draws of the data, and what a chain
    of 200 steps adds. Measured once with 65,536 particles: no moment or share was off by more than
    0.01, sampling error included; the smallest components came out up to 12.4 % too small under
    ddpm, and 7.7 % with 400 steps.
    """
    n, bias = 4096, 0.01
    x, _ = program(name, parameterization)(keys_of(n), time_steps(T, T))
    truth = np.asarray(THREE_BLOBS.sample(jax.random.key(1), 100_000))
    centred = truth - THREE_BLOBS.mean
    mean_error = 5 * truth.std(0) / np.sqrt(n)
    np.testing.assert_array_less(np.abs(x.mean(0) - THREE_BLOBS.mean), mean_error + bias)

    products = centred[:, :, None] * centred[:, None, :]
    covariance_error = 5 * products.std(0) / np.sqrt(n)
    off = np.abs(np.cov(x.T) - THREE_BLOBS.covariance)
    np.testing.assert_array_less(off, covariance_error + bias)

    nearest = np.argmin(((x[:, None] - THREE_BLOBS.means) ** 2).sum(-1), axis=1)
    shares = np.bincount(nearest, minlength=3) / n
    share_error = 5 * np.sqrt(THREE_BLOBS.weights * (1 - THREE_BLOBS.weights) / n)
    np.testing.assert_array_less(np.abs(shares - THREE_BLOBS.weights), share_error + bias)
    for k, scale in enumerate(THREE_BLOBS.scales):
        of_component = x[nearest == k]
        np.testing.assert_allclose(of_component.std(0), scale, rtol=0.15)


@every_sampler
def test_strided_chains_stay_with_the_data(name):
    """A tenth of the steps still finds every component in its share, to within a few percent."""
    x, _ = program(name)(keys_of(4096), time_steps(T, T // 10))
    nearest = np.argmin(((x[:, None] - THREE_BLOBS.means) ** 2).sum(-1), axis=1)
    shares = np.bincount(nearest, minlength=3) / len(x)
    np.testing.assert_allclose(shares, THREE_BLOBS.weights, atol=0.06)


def test_ddim_is_of_first_order():
    """Against the probability-flow ODE's exact solution for N(μ, c²), which scales each deviation:

    x_0 = μ + c (x_T - sqrt(ᾱ_T) μ) / sqrt(ᾱ_T c² + 1 - ᾱ_T)
    """
    schedule, mean, scale = make_schedule("cosine", 4000), 0.4, 0.5
    sampler, denoiser = (
        make_sampler("ddim", schedule),
        single_gaussian(mean, scale).denoiser(schedule),
    )
    keys = keys_of(16)
    x_T = sample_noise(keys, (1,))
    alpha_bar = schedule.alpha_bar[-1]
    deviation = x_T - np.sqrt(alpha_bar) * mean
    exact = mean + scale * deviation / np.sqrt(alpha_bar * scale**2 + 1 - alpha_bar)
    steps, errors = np.array([20, 40, 80, 160]), []
    run = jax.jit(partial(sample, sampler, denoiser, frames=0))
    for n in steps:
        x_0, _ = run(x_T, times=time_steps(schedule.T, int(n)), keys=keys)
        errors.append(np.abs(x_0 - exact).max())
    slopes = -np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert ((slopes > 0.9) & (slopes < 1.1)).all()


@pytest.mark.parametrize("steps", [20, 1])
def test_ddim_with_eta_1_is_ddpm(steps):
    """Equations (15) and (17) at η = 1 are one map of (x_T, noise), in float32 up to rounding."""
    times = time_steps(T, steps)
    ancestral, _ = program("ddpm")(keys_of(8), times)
    implicit, _ = program("ddim", eta=1.0)(keys_of(8), times)
    np.testing.assert_allclose(ancestral, implicit, atol=2e-4)


@cache
def one_step(name, mean, scale, **options):
    sampler = make_sampler(name, SCHEDULE, **options)
    denoiser = single_gaussian(mean, scale).denoiser(SCHEDULE)
    return jax.jit(lambda x_t, t, s, keys: sampler.step(denoiser, sampler.init(x_t), t, s, keys).x)


def stepped(name, mean, scale, x_t, t, s, **options):
    """x_s after one step from x_t, for data from N(mean, scale²)."""
    step = one_step(name, mean, scale, **options)
    return step(x_t, jnp.asarray(t), jnp.asarray(s), keys_of(len(x_t)))


@pytest.mark.parametrize(("t", "s"), [(T, T - 1), (2, 1), (T, 1), (120, 60)])
def test_the_two_variances_are_exact_where_they_should_be(t, s):
    """Ho et al. section 3.2: β for data from N(0, 1), β̃ for a single point; here for any stride."""
    n = 4096
    within = 5 * np.sqrt(2 / n)  # five standard errors of a variance, as a share of it
    x_t = jnp.linspace(-1, 1, n)[:, None]
    alpha, beta = q_conditional(SCHEDULE, t=jnp.asarray(t), s=jnp.asarray(s), ndim=2)
    residual = stepped("ddpm-beta", 0.0, 1.0, x_t, t, s) - alpha * x_t
    np.testing.assert_allclose(residual.var(), beta, rtol=within)

    x_0, noise_scale = 0.3, SCHEDULE.sqrt_one_minus_alpha_bar
    eps = jax.random.normal(jax.random.key(7), (n, 1))
    x_t = SCHEDULE.sqrt_alpha_bar[t] * x_0 + noise_scale[t] * eps
    for name, options in (("ddpm", {}), ("ddim", {"eta": 0.5}), ("ddim", {})):
        x_s = stepped(name, x_0, 0.0, x_t, t, s, **options)
        np.testing.assert_allclose(x_s.var(), noise_scale[s] ** 2, rtol=within)
        off = np.abs(x_s.mean() - SCHEDULE.sqrt_alpha_bar[s] * x_0)
        assert off < 5 * noise_scale[s] / np.sqrt(n)


@every_sampler
@pytest.mark.parametrize("t", [1, 17, T])
def test_the_step_to_0_is_the_denoiser_s_x_0(name, t):
    x_t = jax.random.normal(jax.random.key(0), (8, 1))
    predicted = single_gaussian(0.2, 0.5).predict(SCHEDULE, x_t, jnp.asarray(t)).x_0
    np.testing.assert_allclose(stepped(name, 0.2, 0.5, x_t, t, 0), predicted, rtol=1e-6)


@every_sampler
def test_a_step_takes_one_time_for_all_or_one_each(name):
    x_t = jax.random.normal(jax.random.key(0), (4, 1))
    t, s = [T, 50, 2, 1], [40, 49, 1, 0]
    each = stepped(name, 0.2, 0.5, x_t, t, s)
    for i in range(4):
        one = stepped(name, 0.2, 0.5, x_t, t[i], s[i])
        np.testing.assert_allclose(each[i], one[i], rtol=1e-6)


@every_sampler
def test_a_sample_does_not_depend_on_its_batch(name):
    times = time_steps(T, 20)
    of_8, _ = program(name)(keys_of(8), times)
    of_3, _ = program(name)(keys_of(3), times)
    np.testing.assert_allclose(of_8[:3], of_3, atol=1e-6)
    np.testing.assert_array_equal(
        sample_noise(keys_of(8), (2, 3))[:3], sample_noise(keys_of(3), (2, 3))
    )


def test_noise_differs_between_samples_steps_and_the_start():
    """With a denoiser that always says 0, a chain from 0 shows the noise of its one step."""
    sampler, keys = make_sampler("ddpm", SCHEDULE), keys_of(4)
    x_T = sample_noise(keys, (64,))

    @jax.jit
    def noise(times):
        carry = sampler.init(jnp.zeros_like(x_T))
        return advance(sampler, lambda x, t: Prediction(0 * x, 0 * x), carry, times, keys).x

    rows = np.concatenate([x_T, noise(np.array([2, 1])), noise(np.array([3, 2]))])
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / np.sqrt(64)


@every_sampler
def test_chunks_equal_the_whole_chain_bitwise_and_compile_once(name):
    sampler, keys, times = make_sampler(name, SCHEDULE), keys_of(8), time_steps(T, 20)
    whole, _ = program(name)(keys, times)
    denoiser = THREE_BLOBS.denoiser(SCHEDULE, PARAMETERIZATIONS["eps"])
    traced = []

    @jax.jit
    def piece(carry, times):
        traced.append(times)
        return advance(sampler, denoiser, carry, times, keys)

    carry = sampler.init(sample_noise(keys, (2,)))
    for start in range(0, 20, 5):
        carry = piece(carry, times[start : start + 6])
    np.testing.assert_array_equal(carry.x, whole)
    assert len(traced) == 1


@every_sampler
def test_frames_run_from_x_T_to_x_0_without_changing_either(name):
    frames, keys, times = 4, keys_of(8), time_steps(T, 20)
    plain, none = program(name)(keys, times)
    x_0, trajectory = program(name, frames=frames)(keys, times)
    assert none is None
    assert trajectory.shape == (frames + 1, 8, 2)
    np.testing.assert_array_equal(trajectory[-1], x_0)
    # Other programs: the same arithmetic, which XLA may round otherwise.
    np.testing.assert_allclose(trajectory[0], sample_noise(keys, (2,)), atol=2e-6)
    np.testing.assert_allclose(x_0, plain, atol=2e-6)
    _, every = program(name, frames=20)(keys, times)
    np.testing.assert_allclose(trajectory, every[:: 20 // frames], atol=2e-6)


@pytest.mark.parametrize("frames", [3, -1, 21])
def test_frames_must_divide_the_steps(frames):
    with pytest.raises(ValueError, match=f"{frames} frames do not divide 20"):
        program("ddim", frames=frames)(keys_of(2), time_steps(T, 20))


def test_nothing_in_the_program_is_as_long_as_the_chain():
    program_text = str(jax.make_jaxpr(program("ddpm", frames=4))(keys_of(8), time_steps(T, T)))
    assert "f32[4,8,2]" in program_text
    assert f"f32[{T},8,2]" not in program_text


@every_sampler
def test_one_exported_program_serves_every_batch_size(name):
    """jax.export with a symbolic batch: what a served model needs."""
    run = program(name)
    (b,) = jax.export.symbolic_shape("b")
    times = time_steps(T, 20)
    abstract = jax.ShapeDtypeStruct((b,), keys_of(1).dtype)
    exported = jax.export.export(run)(abstract, times)
    for num in (3, 8):
        np.testing.assert_allclose(
            exported.call(keys_of(num), times)[0], run(keys_of(num), times)[0], atol=1e-6
        )


@pytest.mark.parametrize(
    ("T", "steps"), [(1, 1), (10, 10), (10, 7), (1000, 50), (1000, 999), (7, 1)]
)
def test_time_steps_decrease_evenly_from_T_to_0(T, steps):
    times = time_steps(T, steps)
    assert (times.shape, times.dtype) == ((steps + 1,), np.int32)
    assert (times[0], times[-1]) == (T, 0)
    strides = -np.diff(times)
    assert strides.min() >= 1
    assert strides.max() - strides.min() <= 1


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_time_steps_out_of_range_are_refused(steps):
    with pytest.raises(ValueError, match=f"{steps} sampling steps: take 1 to 10"):
        time_steps(10, steps)
