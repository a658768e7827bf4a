"""The probability-flow ODE: the deterministic path whose marginals are those of the diffusion.

Song et al. 2021 (Score-based generative modeling through SDEs, equation 13) write it in t. In
λ = log SNR, with α² = ᾱ = sigmoid(λ) and σ² = sigmoid(-λ), so that dα/dλ = ½ α σ² and
dσ/dλ = -½ σ α², it has neither the schedule nor a score in it:

(32)  dx/dλ = x̂_0 dα/dλ + eps dσ/dλ = -½ α σ v        v = α eps - σ x̂_0, equation (9)

Along it the density of x changes by the change of variables (their equation 39):

(33)  d log p(x)/dλ = -div (dx/dλ)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddpm_jax.diffusion.schedules import NoiseSchedule, continuous, time_of
from ddpm_jax.typing import Denoiser, Examples


def log_snr_at(schedule: NoiseSchedule, t: float) -> float:
    """Returns the log SNR of one time in (0, T], whole or not."""
    return float(continuous(schedule, np.array([t], np.float64)).log_snr[0])


def flow_velocity(
    schedule: NoiseSchedule, denoiser: Denoiser, x: Examples, log_snr: Float[Array, ""]
) -> Examples:
    """Returns dx/dλ at x `[B, …]` and one λ for all: equation (32)."""
    found = denoiser(x, time_of(schedule, log_snr))
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
    return -0.5 * alpha * sigma * (alpha * found.eps - sigma * found.x_0)
