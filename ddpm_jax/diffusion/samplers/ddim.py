"""Implicit sampling: the noise of x_s is partly the noise of x_t, as predicted, and partly fresh.

(17)  x_s = sqrt(ᾱ_s) x̂_0 + sqrt(1 - ᾱ_s - η² β̃) eps + η sqrt(β̃) z
          = sqrt(ᾱ_s) x̂_0 + sqrt(1 - ᾱ_s) ( sqrt(1 - η²(1 - r)) eps + η sqrt(1 - r) z )

This is Song et al. 2021, equations 12 and 16: deterministic at η = 0, and (16) with σ² = β̃ at
η = 1. It ends in x̂_0, because 1 - ᾱ_0 = 0.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ddpm_jax.diffusion.gaussian import log_snr_ratio
from ddpm_jax.diffusion.samplers.contract import (
    Row,
    Sampler,
    SamplerState,
    one_call_a_step,
    standard_normal,
    start,
)
from ddpm_jax.diffusion.schedules import NoiseSchedule, at, indexed
from ddpm_jax.typing import Denoiser, Examples, Keys, Prediction

# NumPy's in a plan, and one number of a row in a step.
PerInterval = Float[Any, "..."]


class Implicit(NamedTuple):
    """The coefficients of equation (17)."""

    data_scale: PerInterval
    eps_scale: PerInterval
    fresh_scale: PerInterval

    @classmethod
    def plan(
        cls, schedule: NoiseSchedule, times: np.ndarray, eta: PerInterval | float
    ) -> "Implicit":
        """Returns them for each interval between `times` `[n + 1]`, in float64; η may differ."""
        tables, index = indexed(schedule, times)
        log_r = log_snr_ratio(tables, t=index[:-1], s=index[1:], ndim=1)
        noise_scale = at(tables.sqrt_one_minus_alpha_bar, index[1:], 1)
        return cls(
            data_scale=at(tables.sqrt_alpha_bar, index[1:], 1),
            eps_scale=noise_scale * np.sqrt((1 - eta**2) + eta**2 * np.exp(log_r)),
            fresh_scale=noise_scale * eta * np.sqrt(-np.expm1(log_r)),
        )

    def step(self, prediction: Prediction, keys: Keys | None = None) -> Examples:
        """Returns x_s; without keys, which η > 0 needs, no noise is added."""
        x_s = self.data_scale * prediction.x_0 + self.eps_scale * prediction.eps
        if keys is not None:
            x_s += self.fresh_scale * standard_normal(keys, x_s.shape[1:])
        return x_s


def ddim(schedule: NoiseSchedule, *, eta: float = 0.0) -> Sampler:
    """Returns Song et al.'s implicit sampler, η in [0, 1] or ValueError: equation (17)."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta:g}: it must lie between 0 (deterministic) and 1 (as ddpm)")

    def plan(times: np.ndarray) -> Implicit:
        return Implicit.plan(schedule, times, eta)

    def step(denoiser: Denoiser, carry: SamplerState, row: Row, keys: Keys) -> SamplerState:
        prediction = denoiser(carry.x, row.t)
        x_s = row.coefficients.step(prediction, keys if eta > 0 else None)
        return SamplerState(x_s, prediction.x_0)

    return Sampler(plan, start, step, one_call_a_step)
