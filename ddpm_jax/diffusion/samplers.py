"""Samplers: from x_T to x_0 through any decreasing times, given a denoiser.

A sampler is a pair of pure functions. `step` goes from time t to any s < t and calls the denoiser
itself, so a method may call it twice, or keep what it saw in its carry. With x̂_0 and eps the
denoiser's prediction at x_t, z fresh noise, and μ̃, β̃, β_{t|s}, r of `gaussian`:

(15)  ddpm       x_s = μ̃(x_t, x̂_0) + sqrt(β̃) z              Ho et al. 2020, algorithm 2
(16)  ddpm-beta  x_s = μ̃(x_t, x̂_0) + sqrt(β_{t|s}) z, z = 0 at s = 0         the same
(17)  ddim       x_s = sqrt(ᾱ_s) x̂_0 + sqrt(1 - ᾱ_s - η² β̃) eps + η sqrt(β̃) z
                     = sqrt(ᾱ_s) x̂_0 + sqrt(1 - ᾱ_s) ( sqrt(1 - η²(1 - r)) eps + η sqrt(1 - r) z )

(17) is Song et al. 2021, equations 12 and 16: deterministic at η = 0 and equal to (15) at η = 1.
Every one ends noiselessly in x̂_0, because 1 - ᾱ_0 = 0.

Keys are per sample: each sample's noise depends on its own key and the time alone, neither on the
other samples in the batch nor on how the chain is cut into pieces.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ddpm_jax.diffusion.gaussian import VARIANCES, log_snr_ratio, q_posterior
from ddpm_jax.diffusion.schedules import NoiseSchedule, at
from ddpm_jax.tables import choose, options_of, require_options
from ddpm_jax.typing import Denoiser, Examples, Keys, Timesteps

Times = Int[np.ndarray | Array, "times"]


@runtime_checkable
class Carry(Protocol):
    """What a sampler hands from step to step: a pytree that shows the samples so far as `x`."""

    @property
    def x(self) -> Examples: ...


class Samples(NamedTuple):
    """The carry of a sampler that remembers nothing but x_t."""

    x: Examples


class Sampler(NamedTuple):
    """Two pure functions: `init(x_T) -> carry` and `step(denoiser, carry, t, s, keys) -> carry`.

    t and s < t are integers, one for all or one each; keys `[B]` are used up by the step.
    """

    init: Callable[[Examples], Any]
    step: Callable[[Denoiser, Any, Timesteps, Timesteps, Keys], Any]


def _start(x_T: Examples) -> Samples:
    return Samples(x_T.astype(jnp.float32))


def _normal(keys: Keys, shape: tuple[int, ...]) -> Examples:
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def _ancestral(schedule: NoiseSchedule, variance: str) -> Sampler:
    def step(denoiser: Denoiser, carry: Samples, t: Timesteps, s: Timesteps, keys: Keys) -> Samples:
        x_t = carry.x
        mean, _ = q_posterior(schedule, denoiser(x_t, t).x_0, x_t, t=t, s=s)
        noise_scale = jnp.sqrt(VARIANCES[variance](schedule, t=t, s=s, ndim=x_t.ndim))
        # β̃ is 0 at s = 0 by itself, β_{t|s} is not.
        noisy = jnp.sign(at(schedule.sqrt_one_minus_alpha_bar, s, x_t.ndim))
        return Samples(mean + noisy * noise_scale * _normal(keys, x_t.shape[1:]))

    return Sampler(_start, step)


def ddpm(schedule: NoiseSchedule) -> Sampler:
    """Returns ancestral sampling with σ² = β̃: equation (15)."""
    return _ancestral(schedule, "posterior")


def ddpm_beta(schedule: NoiseSchedule) -> Sampler:
    """Returns ancestral sampling with σ² = β_{t|s}, Ho et al.'s choice for CIFAR-10: (16).

    For full chains: over long strides β_{t|s} is far more noise than a step should add.
    """
    return _ancestral(schedule, "beta")


def ddim(schedule: NoiseSchedule, *, eta: float = 0.0) -> Sampler:
    """Returns Song et al.'s implicit sampler, η in [0, 1] or ValueError: equation (17)."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta:g}: it must lie between 0 (deterministic) and 1 (as ddpm)")

    def step(denoiser: Denoiser, carry: Samples, t: Timesteps, s: Timesteps, keys: Keys) -> Samples:
        x_t = carry.x
        x_0, eps, _ = denoiser(x_t, t)
        log_r = log_snr_ratio(schedule, t=t, s=s, ndim=x_t.ndim)
        kept = jnp.sqrt((1 - eta**2) + eta**2 * jnp.exp(log_r))
        fresh = eta * jnp.sqrt(-jnp.expm1(log_r))
        noise = kept * eps + fresh * _normal(keys, x_t.shape[1:])
        data_scale = at(schedule.sqrt_alpha_bar, s, x_t.ndim)
        noise_scale = at(schedule.sqrt_one_minus_alpha_bar, s, x_t.ndim)
        return Samples(data_scale * x_0 + noise_scale * noise)

    return Sampler(_start, step)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddpm": ddpm,
    "ddpm-beta": ddpm_beta,
    "ddim": ddim,
}


def make_sampler(name: str, schedule: NoiseSchedule, **options: Any) -> Sampler:
    """Returns a row of `SAMPLERS`; an unknown name, or an option that it lacks, is a ValueError."""
    row = choose("sampler", SAMPLERS, name)
    require_options(f"sampler {name!r}", options, options_of(row))
    return row(schedule, **options)


def time_steps(T: int, steps: int) -> np.ndarray:
    """Returns int32 `[steps + 1]` from T down to 0, evenly spaced up to rounding, never repeating.

    Raises ValueError unless 1 ≤ steps ≤ T.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"{steps} sampling steps: take 1 to {T}, the steps of the noise schedule")
    return (T * np.arange(steps, -1, -1) // steps).astype(np.int32)


def _keys_at(keys: Keys, t: Timesteps) -> Keys:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, t)


def sample_noise(keys: Keys, shape: tuple[int, ...]) -> Examples:
    """Returns x_T `[B, *shape]`, standard normal, from the same keys that the chain will use.

    It takes the place of t = 0 among them, from which no step starts.
    """
    return _normal(_keys_at(keys, jnp.asarray(0)), shape)


def advance(sampler: Sampler, denoiser: Denoiser, carry: Any, times: Times, keys: Keys) -> Any:
    """Returns the carry after stepping through `times`: all of a chain, or a piece of it.

    `times` decrease and may be traced, so pieces of one length share one compiled program; the
    last time of a piece is the first of the next. The result is that of the uncut chain.
    """
    times = jnp.asarray(times)

    def step(carry: Any, pair: tuple[Timesteps, Timesteps]) -> tuple[Any, None]:
        t, s = pair
        return sampler.step(denoiser, carry, t, s, _keys_at(keys, t)), None

    carry, _ = lax.scan(step, carry, (times[:-1], times[1:]))
    return carry


def sample(
    sampler: Sampler,
    denoiser: Denoiser,
    x_T: Examples,
    *,
    times: Times,
    keys: Keys,
    frames: int = 0,
) -> tuple[Examples, Float[Array, "frames B *shape"] | None]:
    """Returns x_0 `[B, …]`, and the trajectory `[frames + 1, B, …]` from x_T to x_0 if asked.

    `times` is what `time_steps` gives. The frames lie evenly along it and are all that is kept of
    the chain; ValueError unless their number divides that of the steps.
    """
    carry, steps = sampler.init(x_T), len(times) - 1
    if frames == 0:
        return advance(sampler, denoiser, carry, times, keys).x, None
    if frames < 0 or steps % frames:
        raise ValueError(f"{frames} frames do not divide {steps} sampling steps evenly")

    def frame(carry: Any, piece: Times) -> tuple[Any, Examples]:
        carry = advance(sampler, denoiser, carry, piece, keys)
        return carry, carry.x

    stride = steps // frames
    pieces = np.arange(frames)[:, None] * stride + np.arange(stride + 1)
    final, later = lax.scan(frame, carry, jnp.asarray(times)[pieces])
    return final.x, jnp.concatenate([carry.x[None], later])
