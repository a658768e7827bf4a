"""The forward process and its posteriors: every distribution here is a Gaussian.

Notation of Ho et al. 2020: x_0 is data, x_T nearly pure noise, t in 1…T, and s any time before t.
Besides β_t, ᾱ_t and SNR_t (see `schedules`) let

    r = SNR_t / SNR_s        in [0, 1), and 0 at s = 0, where SNR is infinite

One step of noise, and all of it at once (Ho et al., equations 2 and 4):

(1)  q(x_t | x_{t-1}) = N( sqrt(1 - β_t) x_{t-1},  β_t )
(2)  q(x_t | x_0)     = N( sqrt(ᾱ_t) x_0,  1 - ᾱ_t )

From any s to any later t (Kingma et al. 2021, appendix A.1), which is (1) at s = t - 1 and (2) at
s = 0; and back again when x_0 is known (Ho et al., equations 6 and 7, for any s):

(3)  q(x_t | x_s)      = N( α_{t|s} x_s,  β_{t|s} )
         α_{t|s} = sqrt(ᾱ_t / ᾱ_s)        β_{t|s} = 1 - ᾱ_t/ᾱ_s = (1 - ᾱ_t)(1 - r)
(4)  q(x_s | x_t, x_0) = N( μ̃, β̃ )
         μ̃ = α_{t|s} (1 - ᾱ_s)/(1 - ᾱ_t) x_t + sqrt(ᾱ_s) (1 - r) x_0
         β̃ = (1 - ᾱ_s)(1 - r)

The sampler replaces x_0 in (4) by the network's guess. And, in nats for each dimension,

(5)  KL( N(μ_1, v_1) || N(μ_2, v_2) ) = ½ ( v_1/v_2 - 1 - log(v_1/v_2) + (μ_1 - μ_2)²/v_2 )

Differences of nearly equal numbers never appear: 1 - r is expm1 of a difference of log-SNRs. All
results are float32, whatever the inputs, because the tables are.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ddpm_jax.diffusion.schedules import NoiseSchedule, at
from ddpm_jax.typing import Examples, Timesteps

# One number, or one for each example, shaped to broadcast against the examples.
Coefficient = Float[Array, "..."]


def q_step(schedule: NoiseSchedule, x_prev: Examples, t: Timesteps, eps: Examples) -> Examples:
    """Returns x_t ~ q(x_t | x_{t-1}) made of standard normal eps: equation (1)."""
    beta = at(schedule.beta, t, x_prev.ndim)
    return jnp.sqrt(1 - beta) * x_prev + jnp.sqrt(beta) * eps


def q_sample(schedule: NoiseSchedule, x_0: Examples, t: Timesteps, eps: Examples) -> Examples:
    """Returns x_t ~ q(x_t | x_0) made of standard normal eps: equation (2)."""
    data_scale = at(schedule.sqrt_alpha_bar, t, x_0.ndim)
    noise_scale = at(schedule.sqrt_one_minus_alpha_bar, t, x_0.ndim)
    return data_scale * x_0 + noise_scale * eps


def q_mean_variance(
    schedule: NoiseSchedule, x_0: Examples, t: Timesteps
) -> tuple[Examples, Coefficient]:
    """Returns mean and variance of q(x_t | x_0): equation (2)."""
    mean = at(schedule.sqrt_alpha_bar, t, x_0.ndim) * x_0
    return mean, at(schedule.sqrt_one_minus_alpha_bar, t, x_0.ndim) ** 2


def log_snr_ratio(schedule: NoiseSchedule, *, t: Timesteps, s: Timesteps, ndim: int) -> Coefficient:
    """Returns log r = log SNR_t - log SNR_s for s < t: negative, and -∞ at s = 0."""
    return at(schedule.log_snr, t, ndim) - at(schedule.log_snr, s, ndim)


def q_conditional(
    schedule: NoiseSchedule, *, t: Timesteps, s: Timesteps, ndim: int
) -> tuple[Coefficient, Coefficient]:
    """Returns α_{t|s} and β_{t|s} of q(x_t | x_s) for s < t: equation (3)."""
    alpha = at(schedule.sqrt_alpha_bar, t, ndim) / at(schedule.sqrt_alpha_bar, s, ndim)
    one_minus_r = -jnp.expm1(log_snr_ratio(schedule, t=t, s=s, ndim=ndim))
    return alpha, at(schedule.sqrt_one_minus_alpha_bar, t, ndim) ** 2 * one_minus_r


def q_posterior(
    schedule: NoiseSchedule, x_0: Examples, x_t: Examples, *, t: Timesteps, s: Timesteps
) -> tuple[Examples, Coefficient]:
    """Returns mean and variance of q(x_s | x_t, x_0) for s < t: equation (4).

    At s = 0 that is x_0 itself, with variance 0.
    """
    ndim = x_t.ndim
    alpha = at(schedule.sqrt_alpha_bar, t, ndim) / at(schedule.sqrt_alpha_bar, s, ndim)
    one_minus_r = -jnp.expm1(log_snr_ratio(schedule, t=t, s=s, ndim=ndim))
    variance_s = at(schedule.sqrt_one_minus_alpha_bar, s, ndim) ** 2
    variance_t = at(schedule.sqrt_one_minus_alpha_bar, t, ndim) ** 2
    of_x_t = alpha * variance_s / variance_t
    of_x_0 = at(schedule.sqrt_alpha_bar, s, ndim) * one_minus_r
    return of_x_t * x_t + of_x_0 * x_0, variance_s * one_minus_r


def posterior_variance(
    schedule: NoiseSchedule, *, t: Timesteps, s: Timesteps, ndim: int
) -> Coefficient:
    """Returns β̃ of equation (4): exact for the reverse step where the data are a single point."""
    one_minus_r = -jnp.expm1(log_snr_ratio(schedule, t=t, s=s, ndim=ndim))
    return at(schedule.sqrt_one_minus_alpha_bar, s, ndim) ** 2 * one_minus_r


def forward_variance(
    schedule: NoiseSchedule, *, t: Timesteps, s: Timesteps, ndim: int
) -> Coefficient:
    """Returns β_{t|s} of equation (3): exact for the reverse step where the data are N(0, 1)."""
    return q_conditional(schedule, t=t, s=s, ndim=ndim)[1]


# The two choices of σ² for p(x_s | x_t), which bound the true one (Ho et al., section 3.2).
VARIANCES: dict[str, Callable[..., Coefficient]] = {
    "posterior": posterior_variance,
    "beta": forward_variance,
}


def gaussian_kl(
    mean_1: Coefficient,
    log_variance_1: Coefficient,
    mean_2: Coefficient,
    log_variance_2: Coefficient,
) -> Float[Array, "..."]:
    """Returns the divergence of N(mean_1, variance_1) from N(mean_2, variance_2): equation (5).

    One value in nats for each dimension, the inputs broadcast; exactly 0 for equal arguments.
    """
    log_ratio = log_variance_1 - log_variance_2
    shift = (mean_1 - mean_2) ** 2 * jnp.exp(-log_variance_2)
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + shift)
