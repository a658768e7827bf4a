"""Guidance: one denoiser out of two.

A row of `GUIDANCE` combines a denoiser and a weaker one. The weaker one may be the same network
without its label, or another run. The weight w is a function of t, so that guidance may act in a
part of the chain only.

(11) eps_w = (1 + w) eps(x_t | label) - w eps(x_t)    Ho & Salimans 2022, equation 6

Guidance by a classifier's gradient needs one denoiser only: it is a `DenoiserTransform`, applied in
the place of guidance, before clipping.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from ddpm_jax.tables import choose, options_of, require_options
from ddpm_jax.typing import Denoiser, Examples, PerExample, Prediction, Timesteps

# t -> w, one number for all examples or one for each.
GuidanceWeight = Callable[[Timesteps], float | Float[Array, ""] | PerExample]


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

    def denoiser(x_t: Examples, t: Timesteps) -> Prediction:
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


GUIDANCE: dict[str, Callable[..., Denoiser]] = {"classifier_free": classifier_free_guidance}


def make_guidance(
    name: str, weight: GuidanceWeight, **options: Any
) -> Callable[[Denoiser, Denoiser], Denoiser]:
    """Returns the function from the two denoisers, the weaker one last, to the guided denoiser.

    `name` is a row of `GUIDANCE`; ValueError for an unknown name or option.
    """
    row = choose("guidance", GUIDANCE, name)
    require_options(f"guidance {name!r}", options, options_of(row))
    return lambda strong, weak: row(strong, weak, weight, **options)
