"""The variational bound on the negative log-likelihood (Ho et al. 2020, equation 5).

In bits per dimension, one number for each example:

(15)  L_T + Σ_{t>1} L_{t-1} + L_0
          L_T     = KL( q(x_T | x_0) || N(0, 1) )
          L_{t-1} = KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) )
          L_0     = -log p(x_0 | x_1), the Gaussian's mass on the pixel's bin (their equation 13)

For points, which are no pixels, L_0 is the density of the same Gaussian at x_0.
"""

from collections.abc import Callable
from math import log, pi

import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from ddpm_jax.diffusion.checks import (
    check_examples,
    check_pixels,
    check_prediction,
    check_times,
)
from ddpm_jax.diffusion.gaussian import (
    choose_variance,
    forward_variance,
    gaussian_kl,
    log_variance,
    per_example_mean,
    posterior_variance,
    q_mean_variance,
    q_posterior,
    variance_fraction,
)
from ddpm_jax.diffusion.schedules import NoiseSchedule, at
from ddpm_jax.tables import choose
from ddpm_jax.typing import Examples, PerExample, Prediction, Timesteps, is_image


def vlb_prior(schedule: NoiseSchedule, x_0: Examples) -> PerExample:
    """Returns L_T of equation (15) in bits per dimension: what x_T still says about x_0."""
    T = jnp.asarray(schedule.T)
    mean, _ = q_mean_variance(schedule, x_0, T)
    log_variance = 2 * jnp.log(at(schedule.sqrt_one_minus_alpha_bar, T, 1))
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
    decoder: str = "discretized",
) -> PerExample:
    """Returns L_{t-1} of equation (15) in bits per dimension, for t in 1…T and T ≥ 2.

    `prediction` is the denoiser's at x_t ~ q(x_t | x_0). `variance` is a row of `VARIANCES`, that
    of p(x_{t-1} | x_t), and `decoder` one of `DECODERS`, which gives L_0; ValueError for an unknown
    one, and for a learned variance that the prediction lacks. At t = 1 β̃ is 0. A fixed decoder
    then has β̃ of t = 2, and a learned one lies between that and β_1, as in the authors' code for
    the published figures. Raises ValueError for T = 1, and for pixels on another scale.
    """
    check_examples(t, x_0=x_0, x_t=x_t)
    check_prediction(prediction, x_t)
    check_times(t, schedule.T, noisy=True)
    if schedule.T < 2:
        raise ValueError("the bound needs a schedule of at least two steps; this one has T = 1")
    log_likelihood, ndim = choose("decoder", DECODERS, decoder), x_0.ndim
    f = variance_fraction(variance, prediction)
    first = _per_example(t == 1, ndim)
    later = jnp.maximum(t, 2)
    log_posterior = jnp.log(posterior_variance(schedule, t=later, s=later - 1, ndim=ndim))
    log_beta = jnp.log(forward_variance(schedule, t=t, s=t - 1, ndim=ndim))
    if choose_variance(variance) is not None:
        f = jnp.where(first, 0.0, f)
    log_model = log_variance(f, log_posterior=log_posterior, log_beta=log_beta)

    q_mean, _ = q_posterior(schedule, x_0, x_t, t=t, s=t - 1)
    p_mean, _ = q_posterior(schedule, prediction.x_0, x_t, t=t, s=t - 1)
    divergence = per_example_mean(gaussian_kl(q_mean, log_posterior, p_mean, log_model))
    # Away from t = 1 the decoder sees its own mean: a far one would have a gradient of NaN, which
    # times 0 is NaN.
    scale = jnp.exp(0.5 * jnp.where(first, log_model, 0.0))
    decoded = -per_example_mean(log_likelihood(x_0, jnp.where(first, p_mean, x_0), scale))
    return jnp.where(t == 1, decoded, divergence) / log(2)


def _per_example(values: Array, ndim: int) -> Array:
    """Returns one value for all or one each, shaped to broadcast against `ndim` axes."""
    return values if values.ndim == 0 else values.reshape(-1, *[1] * (ndim - 1))


def discretized_log_likelihood(
    x_0: Examples, mean: Examples, scale: Float[Array, "..."]
) -> Examples:
    """Returns the log of the mass of N(mean, scale²) on each pixel's bin: Ho et al., equation 13.

    x_0 is 2 k/255 - 1 for k in 0…255; the bins of 0 and 255 reach to -∞ and +∞, so the 256 masses
    sum to 1. In nats, and finite however far the pixel is from the mean. Raises ValueError for
    pixels on another scale.
    """
    check_examples(x_0=x_0, mean=mean)
    check_pixels(x_0)
    half_bin = 1 / 255
    lower = jnp.where(x_0 < -1 + half_bin, -jnp.inf, (x_0 - half_bin - mean) / scale)
    upper = jnp.where(x_0 > 1 - half_bin, jnp.inf, (x_0 + half_bin - mean) / scale)
    # In the right tail both distribution functions round to 1, so compute the mirror image there.
    mirrored = lower + upper > 0
    a, b = jnp.where(mirrored, -upper, lower), jnp.where(mirrored, -lower, upper)
    # log(Φ(b) - Φ(a)) = log Φ(b) + log(1 - Φ(a)/Φ(b)).
    return log_ndtr(b) + jnp.log(-jnp.expm1(log_ndtr(a) - log_ndtr(b)))


def gaussian_log_density(x_0: Examples, mean: Examples, scale: Float[Array, "..."]) -> Examples:
    """Returns the log density of N(mean, scale²) at x_0, in nats for each dimension."""
    check_examples(x_0=x_0, mean=mean)
    return -0.5 * (((x_0 - mean) / scale) ** 2 + log(2 * pi)) - jnp.log(scale)


# What L_0 measures: the mass of an 8-bit pixel's bin, or the density at a point.
DECODERS: dict[str, Callable[[Examples, Examples, Array], Examples]] = {
    "discretized": discretized_log_likelihood,
    "density": gaussian_log_density,
}


def decoder_of(shape: tuple[int, ...]) -> str:
    """Returns the row of `DECODERS` for examples of this shape: pictures are 8-bit pixels."""
    return "discretized" if is_image(shape) else "density"
