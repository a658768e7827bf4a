"""Guidance: one denoiser out of two.

A row of `GUIDANCE` takes the schedule, and its keyword-only parameters are its options. It gives a
function from a denoiser, a weaker one and a weight w to the guided denoiser. The weaker one may be
the same network without its label, or another run. The weight is a function of t, so that guidance
may act in a part of the chain only.

(11) eps_w = (1 + w) eps(x_t | label) - w eps(x_t)    Ho & Salimans 2022, equation 6

Guidance by a classifier's gradient needs one denoiser only: it is a `DenoiserTransform`, applied in
the place of guidance, before clipping.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from ddpm_jax.diffusion.checks import checked
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.tables import row_with
from ddpm_jax.typing import (
    Denoiser,
    Examples,
    FractionalTimesteps,
    PerExample,
    Prediction,
    Timesteps,
)

# t -> w, one number for all examples or one for each.
GuidanceWeight = Callable[[Timesteps | FractionalTimesteps], float | Float[Array, ""] | PerExample]


# (strong, weak, weight) -> the guided denoiser.
Guidance = Callable[[Denoiser, Denoiser, GuidanceWeight], Denoiser]


def constant_weight(weight: float) -> GuidanceWeight:
    """Returns the weight that is the same at all times."""
    return lambda t: weight


def classifier_free_guidance(
    conditional: Denoiser, unconditional: Denoiser, weight: GuidanceWeight
) -> Denoiser:
    """Returns the denoiser of classifier-free guidance: equation (11).

    w = 0 is the conditional denoiser, w = -1 the unconditional one, and w > 0 goes beyond the
    conditional one. Other codebases call w + 1 the guidance scale. At a given x_t, x_0 is affine
    in eps, so the same combination of x_0 and of eps keeps them in agreement.
    """

    conditional, unconditional = checked(conditional), checked(unconditional)

    def denoiser(x_t: Examples, t: Timesteps | FractionalTimesteps) -> Prediction:
        with_label, without = conditional(x_t, t), unconditional(x_t, t)
        w = _broadcast(weight(t), x_t.ndim)
        return with_label._replace(
            x_0=with_label.x_0 + w * (with_label.x_0 - without.x_0),
            eps=with_label.eps + w * (with_label.eps - without.eps),
        )

    return denoiser


def _broadcast(weight: Any, ndim: int) -> Any:
    """Returns the weight shaped to broadcast against an array with `ndim` axes."""
    if getattr(weight, "ndim", 0) == 0:
        return weight
    return weight.reshape(-1, *[1] * (ndim - 1))


def classifier_free(schedule: NoiseSchedule) -> Guidance:
    """Returns classifier-free guidance, which is the same for every schedule."""
    return classifier_free_guidance


GUIDANCE: dict[str, Callable[..., Guidance]] = {"classifier_free": classifier_free}


def make_guidance(name: str, schedule: NoiseSchedule, **options: Any) -> Guidance:
    """Returns a row of `GUIDANCE`; ValueError for an unknown name or option."""
    row = row_with("guidance", GUIDANCE, name, options)
    return row(schedule, **options)
