"""Guidance: one denoiser out of two, or out of one and a classifier.

A row of `GUIDANCE` takes the schedule, and its keyword-only parameters are its options. It gives a
function from a denoiser, a weaker one and a weight w to the guided denoiser. The weaker one may be
the same network without its label or with another one, or another run, which is autoguidance
(Karras et al. 2024). The weight is a function of t, so that guidance may act in a part of the chain
only. With D(x_t) for the x_0 of a prediction,

(11)   D_w = D + w (D - D_weak)                            Ho & Salimans 2022, equation 6
(11a)  D_w = D + w (Δ_⊥ + η Δ_∥),  Δ = D - D_weak          Sadat et al. 2024, section 4
(11b)  D_s = D + s (1 - ᾱ_t)/sqrt(ᾱ_t) ∇ log p(y | x_t)    Dhariwal & Nichol 2021, algorithm 2

where Δ_∥ is the part of Δ along D. At a given x_t, x_0 is affine in eps, so each has its eps.
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ddpm_jax.diffusion.checks import check_prediction, checked
from ddpm_jax.diffusion.schedules import NoiseSchedule, at, continuous
from ddpm_jax.tables import row_with
from ddpm_jax.typing import (
    Denoiser,
    DenoiserTransform,
    Examples,
    FractionalTimesteps,
    PerExample,
    Prediction,
    RecallingDenoiser,
    Timesteps,
)

AnyTimes = Timesteps | FractionalTimesteps
# t -> w, one number for all examples or one for each.
GuidanceWeight = Callable[[AnyTimes], float | Float[Array, ""] | PerExample]


# (strong, weak, weight) -> the guided denoiser: a RecallingDenoiser where it has a memory.
Guidance = Callable[[Denoiser, Denoiser, GuidanceWeight], Any]


def constant_weight(weight: float) -> GuidanceWeight:
    """Returns the weight that is the same at all times."""
    return lambda t: weight


def interval_weight(
    schedule: NoiseSchedule, weight: float, low: float, high: float
) -> GuidanceWeight:
    """Returns the weight that is 0 unless low ≤ log SNR_t ≤ high: Kynkäänniemi et al. 2024.

    They give the interval in σ, and log SNR is -2 log σ. Raises ValueError unless low < high.
    """
    if not low < high:
        raise ValueError(f"low is {low!r}; it must be below high, which is {high!r}")

    def of(t: AnyTimes) -> Float[Array, "..."]:
        log_snr = _log_snr(schedule, t)
        return jnp.where((low <= log_snr) & (log_snr <= high), weight, 0.0)

    return of


def _log_snr(schedule: NoiseSchedule, t: AnyTimes) -> Any:
    if jnp.issubdtype(t.dtype, jnp.floating):
        return continuous(schedule, t).log_snr.reshape(t.shape)
    return at(schedule.log_snr, t, 1)


def classifier_free_guidance(
    conditional: Denoiser, unconditional: Denoiser, weight: GuidanceWeight
) -> Denoiser:
    """Returns the denoiser of classifier-free guidance: equation (11).

    w = 0 is the conditional denoiser, w = -1 the unconditional one, and w > 0 goes beyond the
    conditional one. Other codebases call w + 1 the guidance scale.
    """
    conditional, unconditional = checked(conditional), checked(unconditional)

    def denoiser(x_t: Examples, t: AnyTimes) -> Prediction:
        found, w = conditional(x_t, t), weight(t)
        x_0, eps = _apart(found, unconditional, w, x_t, t)
        w = _broadcast(w, x_t.ndim)
        return found._replace(x_0=found.x_0 + w * x_0, eps=found.eps + w * eps)

    return denoiser


def _apart(
    found: Prediction, weak: Denoiser, w: Any, x_t: Examples, t: AnyTimes
) -> tuple[Examples, Examples]:
    """Returns how far x_0 and eps are from those of the weak denoiser.

    Where one weight of all is 0, the weak one is not called, and both are 0.
    """

    def apart() -> tuple[Examples, Examples]:
        other = weak(x_t, t)
        return found.x_0 - other.x_0, found.eps - other.eps

    return _unless_zero(w, apart, (found.x_0, found.eps))


def _unless_zero(w: Any, compute: Callable[[], Any], like: Any) -> Any:
    """Returns what `compute` gives; zeros like `like`, uncomputed, if one weight of all is 0."""
    if isinstance(w, jax.Array) and w.ndim == 0:
        return lax.cond(w != 0, compute, lambda: jax.tree.map(jnp.zeros_like, like))
    return compute()


def _moved(schedule: NoiseSchedule, found: Prediction, by: Examples, t: AnyTimes) -> Prediction:
    """Returns the prediction with x_0 moved, and with the eps that agrees with it."""
    scale = _broadcast(jnp.exp(0.5 * _log_snr(schedule, t)), by.ndim)
    return found._replace(x_0=found.x_0 + by, eps=found.eps - scale * by)


def _broadcast(weight: Any, ndim: int) -> Any:
    """Returns the weight shaped to broadcast against an array with `ndim` axes."""
    if getattr(weight, "ndim", 0) == 0:
        return weight
    return weight.reshape(-1, *[1] * (ndim - 1))


def _inner(a: Examples, b: Examples) -> Float[Array, "..."]:
    """Returns the inner product of each example with its own, shaped to broadcast against them."""
    return (a * b).sum(axis=tuple(range(1, a.ndim)), keepdims=True)


def classifier_free(
    schedule: NoiseSchedule,
    *,
    rescale: Annotated[float, "Share of the standard deviation of x_0 that is taken back."] = 0.0,
) -> Guidance:
    """Returns equation (11), with x_0 scaled towards the standard deviation that it has unguided.

    x_0 is multiplied by φ std(D)/std(D_w) + 1 - φ, where φ is `rescale` in [0, 1] and std is over
    an example: Lin et al. 2023, equations 15 and 16, which leave open what is scaled. Raises
    ValueError for another φ.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale is {rescale!r}; it must be in [0, 1]")
    if rescale == 0:
        return classifier_free_guidance

    def guide(strong: Denoiser, weak: Denoiser, weight: GuidanceWeight) -> Denoiser:
        strong, weak = checked(strong), checked(weak)

        def denoiser(x_t: Examples, t: AnyTimes) -> Prediction:
            found, w = strong(x_t, t), weight(t)
            by = _broadcast(w, x_t.ndim) * _apart(found, weak, w, x_t, t)[0]
            axes = tuple(range(1, x_t.ndim))
            before, after = (x.std(axes, keepdims=True) for x in (found.x_0, found.x_0 + by))
            factor = rescale * jnp.where(after > 0, before / after, 1.0) + 1 - rescale
            return _moved(schedule, found, factor * (found.x_0 + by) - found.x_0, t)

        return denoiser

    return guide


def adaptive_projected(
    schedule: NoiseSchedule,
    *,
    parallel: Annotated[float, "η: how much stays of the part of the difference along x_0."] = 0.0,
    norm_threshold: Annotated[float | None, "The difference of x_0 is kept within it."] = None,
    momentum: Annotated[
        float, "β: how much of the last difference is added; below 0 as a rule."
    ] = 0.0,
) -> Guidance:
    """Returns equation (11a), with Δ <- Δ + β Δ_before, shortened to the norm threshold.

    The norm is over all of an example. With η = 1, β = 0 and no threshold it is equation (11). At
    times of weight 0 nothing is remembered. Raises ValueError for η < 0, a threshold that is not
    above 0, or β outside (-1, 1).
    """
    if parallel < 0:
        raise ValueError(f"parallel is {parallel!r}; it must be 0 or more")
    if norm_threshold is not None and norm_threshold <= 0:
        raise ValueError(f"norm_threshold is {norm_threshold!r}; it must be above 0")
    if not -1 < momentum < 1:
        raise ValueError(f"momentum is {momentum!r}; it must be between -1 and 1")

    def guide(
        strong: Denoiser, weak: Denoiser, weight: GuidanceWeight
    ) -> Denoiser | RecallingDenoiser:
        strong, weak = checked(strong), checked(weak)

        def given(before: Examples | None) -> Denoiser:
            def denoiser(x_t: Examples, t: AnyTimes) -> Prediction:
                found, w = strong(x_t, t), weight(t)
                apart, _ = _apart(found, weak, w, x_t, t)
                w = _broadcast(w, x_t.ndim)
                if before is not None:
                    apart = jnp.where(w != 0, apart + momentum * before, before)
                    found = found._replace(memory=apart)
                if norm_threshold is not None:
                    norm = jnp.sqrt(_inner(apart, apart))
                    apart = apart * (norm_threshold / jnp.maximum(norm, norm_threshold))
                square = _inner(found.x_0, found.x_0)
                share = _inner(apart, found.x_0) / jnp.where(square > 0, square, 1.0)
                by = apart + (parallel - 1) * share * found.x_0
                return _moved(schedule, found, w * by, t)

            return denoiser

        return RecallingDenoiser(jnp.zeros_like, given) if momentum else given(None)

    return guide


def classifier_guidance(
    schedule: NoiseSchedule,
    log_probability: Callable[[Examples, AnyTimes], PerExample],
    weight: GuidanceWeight,
) -> DenoiserTransform:
    """Returns the transform that follows a classifier's gradient: equation (11b).

    `log_probability(x_t, t)` is log p(y | x_t) `[B]` of each example's own class y, which must not
    depend on the other examples. With weight 1 and exact parts, it turns the unconditional denoiser
    into that of the class. Where SNR_t is 0, x_t says nothing of a class and there is no guidance.
    """

    def transform(denoiser: Denoiser) -> Denoiser:
        def guided(x_t: Examples, t: AnyTimes) -> Prediction:
            found = check_prediction(denoiser(x_t, t), x_t)
            log_snr = _log_snr(schedule, t)
            some = log_snr > -jnp.inf
            # (1 - ᾱ)/sqrt(ᾱ) is sqrt(1 - ᾱ) over sqrt(SNR).
            noise = jnp.sqrt(jax.nn.sigmoid(-log_snr)) * jnp.exp(-0.5 * jnp.where(some, log_snr, 0))
            scale = jnp.where(some, weight(t) * noise, 0.0)
            slope = jax.grad(lambda x: log_probability(x, t).sum())
            gradient = _unless_zero(scale, lambda: slope(x_t), x_t)
            return _moved(schedule, found, _broadcast(scale, x_t.ndim) * gradient, t)

        return guided

    return transform


GUIDANCE: dict[str, Callable[..., Guidance]] = {
    "classifier_free": classifier_free,
    "adaptive_projected": adaptive_projected,
}


def make_guidance(name: str, schedule: NoiseSchedule, **options: Any) -> Guidance:
    """Returns a row of `GUIDANCE`; ValueError for an unknown name or option."""
    row = row_with("guidance", GUIDANCE, name, options)
    return row(schedule, **options)
