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

A sampler puts the network's x̂_0 in the place of x_0 in (4). In nats for each dimension,

(5)  KL( N(μ_1, v_1) || N(μ_2, v_2) ) = ½ ( v_1/v_2 - 1 - log(v_1/v_2) + (μ_1 - μ_2)²/v_2 )

The true variance of p(x_s | x_t) lies between β̃ and β_{t|s} (Ho et al., section 3.2), and so does
every choice of it here (Nichol & Dhariwal 2021, equation 15):

(6)  log σ² = f log β_{t|s} + (1 - f) log β̃        f in [0, 1]

1 - r is expm1 of a difference of log-SNRs, which are nearly equal where s is near t. So each
log-SNR is read as two float32 numbers, the rounded one and what rounding took from it; the first
two are subtracted exactly. Results are float32, whatever the examples are. Coefficients of NumPy
times are NumPy's float64: plans of samplers compute with the same functions on the host. Where a
schedule is an argument of a compiled function, or `continuous` makes one there, its tables are
float32 and a step from t to t - 1 has a relative error of up to 1e-4 in β̃.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddpm_jax.diffusion.checks import check_examples, check_times, known
from ddpm_jax.diffusion.schedules import HostTimes, NoiseSchedule, at
from ddpm_jax.tables import choose
from ddpm_jax.typing import Examples, PerExample, Prediction, Timesteps

# One number, or one for each example, shaped to broadcast against the examples.
Coefficient = Float[Any, "..."]


def q_step(schedule: NoiseSchedule, x_prev: Examples, t: Timesteps, eps: Examples) -> Examples:
    """Returns x_t ~ q(x_t | x_{t-1}) from standard normal eps, for t in 1…T: equation (1)."""
    check_examples(t, x_prev=x_prev, eps=eps)
    check_times(t, schedule.T, noisy=True)
    beta = at(schedule.beta, t, x_prev.ndim)
    return jnp.sqrt(1 - beta) * x_prev + jnp.sqrt(beta) * eps


def q_sample(schedule: NoiseSchedule, x_0: Examples, t: Timesteps, eps: Examples) -> Examples:
    """Returns x_t ~ q(x_t | x_0) from standard normal eps: equation (2)."""
    check_examples(t, x_0=x_0, eps=eps)
    data_scale = at(schedule.sqrt_alpha_bar, t, x_0.ndim)
    noise_scale = at(schedule.sqrt_one_minus_alpha_bar, t, x_0.ndim)
    return data_scale * x_0 + noise_scale * eps


def q_mean_variance(
    schedule: NoiseSchedule, x_0: Examples, t: Timesteps
) -> tuple[Examples, Coefficient]:
    """Returns mean and variance of q(x_t | x_0): equation (2)."""
    check_examples(t, x_0=x_0)
    mean = at(schedule.sqrt_alpha_bar, t, x_0.ndim) * x_0
    return mean, at(schedule.sqrt_one_minus_alpha_bar, t, x_0.ndim) ** 2


def log_snr_ratio(
    schedule: NoiseSchedule, *, t: Timesteps | HostTimes, s: Timesteps | HostTimes, ndim: int
) -> Coefficient:
    """Returns log r = log SNR_t - log SNR_s for s < t: negative, and -∞ at s = 0."""
    table = schedule.log_snr
    difference = at(table, t, ndim) - at(table, s, ndim)
    if isinstance(t, np.ndarray) or not isinstance(table, np.ndarray):
        return difference
    lost = np.where(np.isfinite(table), table, 0)
    lost = lost - lost.astype(np.float32)
    return difference + (at(lost, t, ndim) - at(lost, s, ndim))


def _one_minus_r(
    schedule: NoiseSchedule, *, t: Timesteps | HostTimes, s: Timesteps | HostTimes, ndim: int
) -> Coefficient:
    """Returns 1 - r; raises ValueError for a known s that is not before t."""
    log_r = log_snr_ratio(schedule, t=t, s=s, ndim=ndim)
    ratios = known(log_r)
    if ratios is not None and not (ratios < 0).all():
        raise ValueError("s must be before t, so that there is noise between them")
    return -np.expm1(log_r) if isinstance(log_r, np.ndarray) else -jnp.expm1(log_r)


def q_conditional(
    schedule: NoiseSchedule, *, t: Timesteps | HostTimes, s: Timesteps | HostTimes, ndim: int
) -> tuple[Coefficient, Coefficient]:
    """Returns α_{t|s} and β_{t|s} of q(x_t | x_s) for s < t: equation (3)."""
    alpha = at(schedule.sqrt_alpha_bar, t, ndim) / at(schedule.sqrt_alpha_bar, s, ndim)
    one_minus_r = _one_minus_r(schedule, t=t, s=s, ndim=ndim)
    return alpha, at(schedule.sqrt_one_minus_alpha_bar, t, ndim) ** 2 * one_minus_r


def posterior_coefficients(
    schedule: NoiseSchedule, *, t: Timesteps | HostTimes, s: Timesteps | HostTimes, ndim: int
) -> tuple[Coefficient, Coefficient]:
    """Returns the factors of x_t and of x_0 in μ̃, for s < t: equation (4). At s = 0: 0 and 1."""
    alpha = at(schedule.sqrt_alpha_bar, t, ndim) / at(schedule.sqrt_alpha_bar, s, ndim)
    one_minus_r = _one_minus_r(schedule, t=t, s=s, ndim=ndim)
    variance_s = at(schedule.sqrt_one_minus_alpha_bar, s, ndim) ** 2
    variance_t = at(schedule.sqrt_one_minus_alpha_bar, t, ndim) ** 2
    return alpha * variance_s / variance_t, at(schedule.sqrt_alpha_bar, s, ndim) * one_minus_r


def q_posterior(
    schedule: NoiseSchedule, x_0: Examples, x_t: Examples, *, t: Timesteps, s: Timesteps
) -> tuple[Examples, Coefficient]:
    """Returns mean and variance of q(x_s | x_t, x_0) for s < t: equation (4).

    At s = 0 that is x_0 itself, with variance 0.
    """
    check_examples(t, x_t=x_t, x_0=x_0)
    factor_x_t, factor_x_0 = posterior_coefficients(schedule, t=t, s=s, ndim=x_t.ndim)
    variance = posterior_variance(schedule, t=t, s=s, ndim=x_t.ndim)
    return factor_x_t * x_t + factor_x_0 * x_0, variance


def posterior_variance(
    schedule: NoiseSchedule, *, t: Timesteps | HostTimes, s: Timesteps | HostTimes, ndim: int
) -> Coefficient:
    """Returns β̃ of equation (4): exact for the reverse step where the data are a single point."""
    one_minus_r = _one_minus_r(schedule, t=t, s=s, ndim=ndim)
    return at(schedule.sqrt_one_minus_alpha_bar, s, ndim) ** 2 * one_minus_r


def forward_variance(
    schedule: NoiseSchedule, *, t: Timesteps | HostTimes, s: Timesteps | HostTimes, ndim: int
) -> Coefficient:
    """Returns β_{t|s} of equation (3): exact for the reverse step where the data are N(0, 1)."""
    return q_conditional(schedule, t=t, s=s, ndim=ndim)[1]


# The f of equation (6) for each choice of σ²; None where the network predicts f.
VARIANCES: dict[str, float | None] = {"posterior": 0.0, "beta": 1.0, "learned": None}
# Nichol & Dhariwal's names, which other projects use.
VARIANCE_ALIASES = {"fixed_small": "posterior", "fixed_large": "beta", "learned_range": "learned"}


def choose_variance(name: str) -> float | None:
    """Returns a row of `VARIANCES` by its name or alias; ValueError for an unknown one."""
    return choose("variance", VARIANCES, VARIANCE_ALIASES.get(name, name))


def variance_fraction(variance: str, prediction: Prediction) -> float | Examples:
    """Returns the f of a row of `VARIANCES`, which is the prediction's if the row is learned.

    Raises ValueError if it is and the prediction has none.
    """
    f = choose_variance(variance)
    if f is not None:
        return f
    if prediction.variance_fraction is None:
        raise ValueError(
            f"variance {variance!r} needs a network that predicts its variance, with 2 outputs per "
            "channel; this one predicts none"
        )
    return prediction.variance_fraction


def log_variance(
    f: float | Coefficient, *, log_posterior: Coefficient, log_beta: Coefficient
) -> Coefficient:
    """Returns log σ² between log β̃ and log β_{t|s}: equation (6)."""
    return f * log_beta + (1 - f) * log_posterior


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


def per_example_mean(values: Examples) -> PerExample:
    """Returns the mean over all axes but the first, in float32."""
    return values.astype(jnp.float32).mean(axis=tuple(range(1, values.ndim)))
