"""Training losses, their weights over time, and the variational bound.

Each is one number per example; the mean over the batch is the caller's last step.

The simple loss is the plain error of what the network predicts. Published weightings are given for
the squared error of one particular quantity; here each is written for eps and carried over to the
other parameterizations by equation (9) of `predictions`, so that its optimum, and the share of each
t in the gradient, do not depend on what the network predicts:

(11)  none      1 for the network's own output: L_simple of Ho et al. 2020 (equation 14) for eps
(12)  min_snr   min(SNR_t, γ) ‖δx_0‖² = min(1, γ/SNR_t) ‖δeps‖²       Hang et al. 2023, section 3.4
(13)  p2        ‖δeps‖² / (k + SNR_t)^γ                               Choi et al. 2022, equation 8

The bound on the negative log-likelihood (Ho et al., equation 5), in bits per dimension:

(14)  L_T + Σ_{t>1} L_{t-1} + L_0
          L_T     = KL( q(x_T | x_0) || N(0, 1) )
          L_{t-1} = KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) )
          L_0     = -log p(x_0 | x_1), the Gaussian's mass on the pixel's bin (their equation 13)
"""

from collections.abc import Callable
from math import log
from typing import Any

import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from ddpm_jax.diffusion.gaussian import VARIANCES, gaussian_kl, q_mean_variance, q_posterior
from ddpm_jax.diffusion.parameterizations import Parameterization
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.tables import choose, options_of, require_options
from ddpm_jax.typing import Examples, PerExample, Prediction, Timesteps


def per_example_mean(values: Examples) -> PerExample:
    """Returns the mean over all axes but the first, in float32."""
    return values.astype(jnp.float32).mean(axis=tuple(range(1, values.ndim)))


def _difference(output: Examples, target: Examples) -> Examples:
    # Half-precision outputs are widened before the subtraction, not after it.
    return output.astype(jnp.float32) - target.astype(jnp.float32)


def l1(output: Examples, target: Examples) -> PerExample:
    """Returns the mean absolute error."""
    return per_example_mean(jnp.abs(_difference(output, target)))


def l2(output: Examples, target: Examples) -> PerExample:
    """Returns the mean squared error."""
    return per_example_mean(_difference(output, target) ** 2)


def huber(output: Examples, target: Examples) -> PerExample:
    """Returns the mean of ½d² for |d| < 1 and |d| - ½ beyond: smooth l1."""
    d = jnp.abs(_difference(output, target))
    return per_example_mean(jnp.where(d < 1, 0.5 * d**2, d - 0.5))


LOSSES: dict[str, Callable[[Examples, Examples], PerExample]] = {"l1": l1, "l2": l2, "huber": huber}


# A weighting is (log SNR_t, the parameterization's eps_loss_factor there) -> weight, both `[B]`.
def unweighted(log_snr: PerExample, eps_loss_factor: PerExample) -> PerExample:
    """Returns 1: equation (11)."""
    return jnp.ones_like(log_snr)


def min_snr(log_snr: PerExample, eps_loss_factor: PerExample, *, gamma: float = 5.0) -> PerExample:
    """Returns min(1, γ/SNR) for eps, min(SNR, γ) for x_0, min(SNR, γ)/(SNR + 1) for v: (12)."""
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma!r}; it must be above 0")
    return eps_loss_factor * jnp.minimum(1.0, gamma * jnp.exp(-log_snr))


def p2(
    log_snr: PerExample, eps_loss_factor: PerExample, *, gamma: float = 1.0, k: float = 1.0
) -> PerExample:
    """Returns 1/(k + SNR)^γ for eps, times equation (9) for the others: equation (13)."""
    if gamma < 0:
        raise ValueError(f"gamma is {gamma!r}; it must be 0 or more")
    if k <= 0:
        raise ValueError(f"k is {k!r}; it must be above 0")
    return eps_loss_factor * (k + jnp.exp(log_snr)) ** -gamma


WEIGHTINGS: dict[str, Callable[..., PerExample]] = {
    "none": unweighted,
    "min_snr": min_snr,
    "p2": p2,
}


def make_weighting(
    name: str, parameterization: Parameterization, **options: Any
) -> Callable[[PerExample], PerExample]:
    """Returns the function from log SNR `[B]`, at t ≥ 1, to the weight of the output's loss `[B]`.

    `name` is a row of `WEIGHTINGS`; ValueError for an unknown name or option. The conversion
    between parameterizations holds for squared errors; l1 and huber get the same weight.
    """
    row = choose("weighting", WEIGHTINGS, name)
    require_options(f"weighting {name!r}", options, options_of(row))
    return lambda log_snr: row(log_snr, parameterization.eps_loss_factor(log_snr), **options)


def vlb_prior(schedule: NoiseSchedule, x_0: Examples) -> PerExample:
    """Returns L_T of equation (14) in bits per dimension: what x_T still tells of x_0."""
    T = jnp.asarray(schedule.T)
    mean, _ = q_mean_variance(schedule, x_0, T)
    log_variance = jnp.log1p(-jnp.asarray(schedule.alpha_bar)[T])
    zero = jnp.zeros(())
    return per_example_mean(gaussian_kl(mean, log_variance, zero, zero)) / log(2)


def vlb_term(
    schedule: NoiseSchedule,
    prediction: Prediction,
    x_0: Examples,
    *,
    x_t: Examples,
    t: Timesteps,
    variance: str = "beta",
) -> PerExample:
    """Returns L_{t-1} of equation (14) in bits per dimension, for t in 1…T and T ≥ 2.

    `prediction` is the denoiser's at x_t ~ q(x_t | x_0), and x_0 holds 8-bit pixels scaled to
    [-1, 1]. `variance` is a row of `VARIANCES`, that of p(x_{t-1} | x_t); ValueError otherwise.
    At t = 1 the posterior's variance is 0, and β̃ at t = 2 stands in for either, as in the
    authors' code: published figures are computed so.
    """
    ndim = x_0.ndim
    t_variance = jnp.maximum(t, 2)
    times = {"t": t_variance, "s": t_variance - 1, "ndim": ndim}
    log_posterior = jnp.log(VARIANCES["posterior"](schedule, **times))
    log_model = jnp.log(choose("variance", VARIANCES, variance)(schedule, **times))

    q_mean, _ = q_posterior(schedule, x_0, x_t, t=t, s=t - 1)
    p_mean, _ = q_posterior(schedule, prediction.x_0, x_t, t=t, s=t - 1)
    divergence = per_example_mean(gaussian_kl(q_mean, log_posterior, p_mean, log_model))
    decoder_scale = jnp.exp(0.5 * log_posterior)
    decoder = -per_example_mean(discretized_log_likelihood(x_0, p_mean, decoder_scale))
    return jnp.where(t == 1, decoder, divergence) / log(2)


def discretized_log_likelihood(
    x_0: Examples, mean: Examples, scale: Float[Array, "..."]
) -> Examples:
    """Returns the log of the mass of N(mean, scale²) on each pixel's bin: Ho et al., equation 13.

    x_0 is 2 k/255 - 1 for k in 0…255; the bins of 0 and 255 reach to -∞ and +∞, so the 256 masses
    sum to 1. In nats, finite however far the pixel lies from the mean.
    """
    half_bin = 1 / 255
    lower = jnp.where(x_0 < -1 + half_bin, -jnp.inf, (x_0 - half_bin - mean) / scale)
    upper = jnp.where(x_0 > 1 - half_bin, jnp.inf, (x_0 + half_bin - mean) / scale)
    # In the right tail both distribution functions round to 1: look at the mirror image there.
    mirrored = lower + upper > 0
    a, b = jnp.where(mirrored, -upper, lower), jnp.where(mirrored, -lower, upper)
    # log(Φ(b) - Φ(a)), with the smaller one as a share of the larger.
    return log_ndtr(b) + jnp.log(-jnp.expm1(log_ndtr(a) - log_ndtr(b)))
