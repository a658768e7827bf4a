"""Ancestral sampling: x_s is drawn from p(x_s | x_t), with x̂_0 in the place of x_0.

With z fresh noise, μ̃ of equation (4) and σ² of equation (6):

(16)  x_s = μ̃(x_t, x̂_0) + σ z,  and x_s = x̂_0 at s = 0        Ho et al. 2020, algorithm 2
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddpm_jax.diffusion.gaussian import (
    choose_variance,
    forward_variance,
    log_variance,
    posterior_coefficients,
    posterior_variance,
    variance_fraction,
)
from ddpm_jax.diffusion.samplers.contract import (
    Row,
    Sampler,
    SamplerState,
    one_call_a_step,
    standard_normal,
    start,
)
from ddpm_jax.diffusion.schedules import NoiseSchedule, indexed
from ddpm_jax.typing import Denoiser, Keys

PerInterval = Float[np.ndarray, "intervals"]


class _Coefficients(NamedTuple):
    factor_x_t: PerInterval
    factor_x_0: PerInterval
    sigma: PerInterval
    """σ, or sqrt(β̃) if the variance is learned; 0 at s = 0."""
    half_log_ratio: PerInterval
    """½ log(β_{t|s} / β̃): a learned σ is sqrt(β̃) exp(f · this)."""


def ddpm(schedule: NoiseSchedule, *, variance: str = "posterior") -> Sampler:
    """Returns ancestral sampling with σ² of a row of `VARIANCES`, or ValueError: equation (16)."""
    fixed = choose_variance(variance)

    def plan(times: np.ndarray) -> _Coefficients:
        tables, index = indexed(schedule, times)
        interval = {"t": index[:-1], "s": index[1:], "ndim": 1}
        noisy = times[1:] > 0
        beta = forward_variance(tables, **interval)
        # β̃ is 0 at s = 0, where nothing is added; any positive number keeps its log finite.
        log_posterior = np.log(np.where(noisy, posterior_variance(tables, **interval), beta))
        bounds = {"log_posterior": log_posterior, "log_beta": np.log(beta)}
        return _Coefficients(
            *posterior_coefficients(tables, **interval),
            sigma=noisy * np.exp(0.5 * log_variance(fixed or 0.0, **bounds)),
            half_log_ratio=0.5 * (np.log(beta) - log_posterior),
        )

    def step(denoiser: Denoiser, carry: SamplerState, row: Row, keys: Keys) -> SamplerState:
        x_t, c = carry.x, row.coefficients
        prediction = denoiser(x_t, row.t)
        mean = c.factor_x_t * x_t + c.factor_x_0 * prediction.x_0
        sigma = c.sigma
        if fixed is None:
            sigma *= jnp.exp(variance_fraction(variance, prediction) * c.half_log_ratio)
        return SamplerState(mean + sigma * standard_normal(keys, x_t.shape[1:]), prediction.x_0)

    return Sampler(plan, start, step, one_call_a_step, learned_variance=fixed is None)


def ddpm_beta(schedule: NoiseSchedule) -> Sampler:
    """Returns ancestral sampling with σ² = β_{t|s}, Ho et al.'s choice for CIFAR-10.

    Use it for full chains: over long strides β_{t|s} is far more noise than a step should add.
    """
    return ddpm(schedule, variance="beta")
