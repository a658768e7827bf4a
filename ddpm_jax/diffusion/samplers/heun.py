"""Heun's method: a step of DDIM, then the same step with the mean of eps at both of its ends.

(21)  x_s = (17) + ½ (sqrt(1 - ᾱ_s) - sqrt(ᾱ_s) σ̄_t) (eps_s - eps_t)         σ̄ = 1/sqrt(SNR)

This is Karras et al. 2022, algorithm 1, whose x is x/sqrt(ᾱ) and whose σ is σ̄. The step to s = 0
stays as DDIM's, and so does one from pure noise, where σ̄ is infinite. Churn first goes up from t to
a time t̂ with σ̄_t̂ = (1 + γ) σ̄_t, by equation (3), and then from t̂ to s: algorithm 2.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from ddpm_jax.diffusion.samplers.contract import Row, Sampler, SamplerState, standard_normal, start
from ddpm_jax.diffusion.samplers.ddim import Implicit
from ddpm_jax.diffusion.schedules import NoiseSchedule, at, indexed, noise_to_data, time_of
from ddpm_jax.typing import Denoiser, Keys

PerInterval = Float[np.ndarray, "intervals"]


class _Coefficients(NamedTuple):
    implicit: Implicit
    gain: PerInterval
    """The factor of eps_s - eps_t; 0 where the step stays as DDIM's."""
    t: PerInterval
    """t̂, where the step starts."""
    churn_scale: PerInterval
    churn_noise: PerInterval


def heun(
    schedule: NoiseSchedule,
    *,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float | None = None,
    s_noise: float = 1.0,
) -> Sampler:
    """Returns Heun's method, of two calls a step and one in the last: equation (21).

    A step with σ̄ in [s_min, s_max] (None for no limit) has γ = s_churn / steps, at most √2 - 1, and
    churn's noise has the deviation s_noise. t̂ is at most T, and whole if the times are. Raises
    ValueError for negative options, and for s_max below s_min.
    """
    for name, value in (("s_churn", s_churn), ("s_min", s_min), ("s_noise", s_noise)):
        if not value >= 0:
            raise ValueError(f"{name} is {value:g}: it must be 0 or more")
    if s_max is not None and not s_max >= s_min:
        raise ValueError(f"s_max is {s_max:g}: it must be at least s_min, which is {s_min:g}")

    def plan(times: np.ndarray) -> _Coefficients:
        t, s = times[:-1], times[1:]
        within = s_min, np.inf if s_max is None else s_max
        raised = _raised(schedule, t, s_churn, within) if s_churn > 0 else t
        tables, index = indexed(schedule, np.concatenate([t, raised, s]))
        names = "sqrt_alpha_bar", "sqrt_one_minus_alpha_bar"
        data, noise = (at(getattr(tables, name), index, 1).reshape(3, -1) for name in names)
        churned = raised > t
        scale = np.divide(data[1], data[0], out=np.ones(len(t)), where=churned)
        fresh = np.where(churned, s_noise * np.sqrt(-np.expm1(2 * np.log(scale))), 0.0)
        # Nothing is left to correct at s = 0, and σ̄ is infinite where x_t is pure noise.
        corrected = (s > 0) & (data[1] > 0)
        slope = np.divide(noise[1], data[1], out=np.zeros(len(t)), where=corrected)
        gain = np.where(corrected, 0.5 * (noise[2] - data[2] * slope), 0.0)
        implicit = Implicit.plan(schedule, times, 0.0)
        return _Coefficients(implicit, gain, raised.astype(float), scale, fresh)

    def step(denoiser: Denoiser, carry: SamplerState, row: Row, keys: Keys) -> SamplerState:
        c, x_t = row.coefficients, carry.x
        if s_churn > 0:
            x_t = c.churn_scale * x_t + c.churn_noise * standard_normal(keys, x_t.shape[1:])
        first = denoiser(x_t, c.t.astype(row.t.dtype))
        x_s = c.implicit.step(first)
        # A denoiser must never be called at 0, even where its result is thrown away.
        end = jnp.where(c.gain != 0, row.s, row.t)

        def corrected() -> SamplerState:
            second = denoiser(x_s, end)
            return SamplerState(x_s + c.gain * (second.eps - first.eps), second.x_0)

        return lax.cond(c.gain != 0, corrected, lambda: SamplerState(x_s, first.x_0))

    def calls(times: np.ndarray) -> int:
        return len(times) - 1 + int(np.count_nonzero(plan(times).gain))

    return Sampler(plan, start, step, calls, grid="karras")


def _raised(
    schedule: NoiseSchedule, t: np.ndarray, s_churn: float, within: tuple[float, float]
) -> np.ndarray:
    """Returns t̂ of each step: t, or later where σ̄ is `within` and churn adds noise."""
    noise = noise_to_data(schedule, t)
    churned = (noise >= within[0]) & (noise <= within[1])
    gamma = min(s_churn / len(t), np.sqrt(2) - 1)
    found = time_of(schedule, -2 * np.log((1 + gamma) * noise))
    found = np.rint(found).astype(t.dtype) if np.issubdtype(t.dtype, np.integer) else found
    return np.where(churned, np.maximum(found, t), t)
