"""Editing by chains: RePaint's way up and down, the way from data to noise, and between noises.

The ODE that DDIM follows down to the data leads back up to the noise that they came from. From t to
a later s that needs eps alone:

(23)  x_s = sqrt(ᾱ_s / ᾱ_t) x_t + ( sqrt(1 - ᾱ_s) - sqrt(ᾱ_s / ᾱ_t) sqrt(1 - ᾱ_t) ) eps
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddpm_jax.diffusion.operators import Measurement
from ddpm_jax.diffusion.samplers.contract import (
    Row,
    Sampler,
    SamplerState,
    one_call_a_step,
    standard_normal,
    start,
)
from ddpm_jax.diffusion.schedules import NoiseSchedule, at, indexed
from ddpm_jax.typing import Denoiser, Examples, Keys, PerExample


def repaint_times(times: np.ndarray, *, jump_length: int, jump_samples: int) -> np.ndarray:
    """Returns the times of RePaint's chain over a falling grid `[n + 1]`.

    Each `jump_length` intervals, counted from the first time above 0, the chain goes back up by as
    many and down again, until it has been down `jump_samples` times; the first `jump_length`
    intervals of all have no jumps. 250 intervals and jumps of 10 by 10 make 4,571 times, of which
    2,410 intervals fall. Raises ValueError for numbers below 1. Source: Lugmayr et al. 2022,
    figure 9, and their published settings.
    """
    for name, value in {"jump_length": jump_length, "jump_samples": jump_samples}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    rising = np.asarray(times)[::-1]
    top = len(rising) - 1
    left = dict.fromkeys(range(1, top - jump_length + 1, jump_length), jump_samples - 1)
    at_now, places = top, [top]
    while at_now:
        at_now -= 1
        places.append(at_now)
        if left.get(at_now):
            left[at_now] -= 1
            places += range(at_now + 1, at_now + jump_length + 1)
            at_now += jump_length
    return rising[places]


PerInterval = Float[np.ndarray, "intervals"]


class _Repainting(NamedTuple):
    inner: Any
    """The coefficients of the wrapped sampler."""
    data_scale: PerInterval
    noise_scale: PerInterval


def repaint(sampler: Sampler, schedule: NoiseSchedule, given: Measurement | None) -> Sampler:
    """Returns the sampler with known pixels noised to each step's time afresh: RePaint.

    After a step to s the known pixels are drawn from q(x_s | y), independently of all before, so
    they are y at s = 0, to the bit. It is the `apply` of a `SamplerOperator`. Source: Lugmayr et
    al. 2022, equation 8.
    """

    def plan(times: np.ndarray) -> _Repainting:
        tables, index = indexed(schedule, times)
        return _Repainting(
            sampler.plan(times),
            at(tables.sqrt_alpha_bar, index[1:], 1),
            at(tables.sqrt_one_minus_alpha_bar, index[1:], 1),
        )

    def step(denoiser: Denoiser, carry: Any, row: Row, keys: Keys) -> Any:
        assert given is not None
        assert given.known is not None
        c = row.coefficients
        carry = sampler.step(denoiser, carry, row._replace(coefficients=c.inner), keys)
        # The step itself may have drawn from its keys.
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
        known = c.data_scale * given.y + c.noise_scale * standard_normal(own, given.y.shape[1:])
        return carry._replace(x=jnp.where(given.known, known, carry.x))

    return sampler._replace(plan=plan, step=step)


class _Rise(NamedTuple):
    factor_x_t: PerInterval
    eps_scale: PerInterval


def inversion(sampler: Sampler, schedule: NoiseSchedule, given: None) -> Sampler:
    """Returns DDIM upwards, from data at t = 0 to their noise at T: equation (23).

    It takes the place of the sampler, as the `apply` of a `SamplerOperator` without data. At t = 0
    the denoiser is called at t = 1. DDIM with η = 0, down the same times and without clipping,
    leads back to the data with an error of first order. Source: Song et al. 2021, section 4.3.
    """

    def plan(times: np.ndarray) -> _Rise:
        tables, index = indexed(schedule, times)
        data = at(tables.sqrt_alpha_bar, index, 1)
        noise = at(tables.sqrt_one_minus_alpha_bar, index, 1)
        factor = data[1:] / data[:-1]
        return _Rise(factor, noise[1:] - factor * noise[:-1])

    def step(denoiser: Denoiser, carry: SamplerState, row: Row, keys: Keys) -> SamplerState:
        c, found = row.coefficients, denoiser(carry.x, jnp.maximum(row.t, 1))
        return SamplerState(c.factor_x_t * carry.x + c.eps_scale * found.eps, found.x_0)

    return Sampler(plan, start, step, one_call_a_step, upward="step")


def between(first: Examples, last: Examples, fraction: PerExample) -> Examples:
    """Returns points on the arcs from `first` to `last` `[B, …]`, at fractions in [0, 1].

    On an arc the norm goes evenly from one end's to the other's; on a straight line it would
    shrink, and such an x_t has too little noise. Source: Shoemake 1985.
    """
    axes = tuple(range(1, first.ndim))
    low, high = (jnp.sqrt((x**2).sum(axes, keepdims=True)) for x in (first, last))
    cosine = ((first / low) * (last / high)).sum(axes, keepdims=True)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    where = fraction.reshape(-1, *[1] * len(axes))
    near = angle < 1e-4
    safe = jnp.where(near, 1, angle)
    weights = [jnp.sin((1 - where) * safe), jnp.sin(where * safe)]
    arc = (weights[0] * first / low + weights[1] * last / high) / jnp.sin(safe)
    line = (1 - where) * first / low + where * last / high
    return jnp.where(near, line, arc) * ((1 - where) * low + where * high)
