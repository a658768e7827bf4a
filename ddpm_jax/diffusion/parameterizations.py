"""What a network may predict, and how each choice becomes the same (x_0, eps).

A network sees x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) eps, equation (2) of `gaussian`. Whichever of
these it is trained to predict, the others follow:

(6)  eps                                              Ho et al. 2020, section 3.2
(7)  x_0                                              the same section
(8)  v = sqrt(ᾱ_t) eps - sqrt(1 - ᾱ_t) x_0            Salimans & Ho 2022, appendix D

(x_0, eps) is (x_t, v) turned by the angle arctan(sqrt(1/SNR_t)), so v divides by nothing. For
one and the same error of x_0, the squared errors of the three are tied by

(9)  ‖δeps‖² = SNR_t ‖δx_0‖² = ᾱ_t ‖δv‖²

Guidance belongs here too, since it makes one prediction of two:

(10) eps_w = (1 + w) eps(x_t | label) - w eps(x_t)    Ho & Salimans 2022, equation 6
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.schedules import NoiseSchedule, at
from ddpm_jax.typing import Denoiser, Examples, PerExample, Prediction, Timesteps


class Parameterization(NamedTuple):
    """One choice of what the network's output means.

    `target` is what the output should be. `to_prediction` turns an output of any float type into
    float32 (x_0, eps) that agree with x_t. `eps_loss_factor` takes log SNR `[B]`, and its squared
    error times this factor is the squared error of eps: equation (9).
    """

    target: Callable[[NoiseSchedule, Examples, Examples, Timesteps], Examples]  # x_0, eps, t
    to_prediction: Callable[[NoiseSchedule, Examples, Examples, Timesteps], Prediction]
    eps_loss_factor: Callable[[PerExample], PerExample]


def _from_eps(schedule: NoiseSchedule, output: Examples, x_t: Examples, t: Timesteps) -> Prediction:
    eps = output.astype(jnp.float32)
    noise = at(schedule.sqrt_one_minus_alpha_bar, t, x_t.ndim) * eps
    return Prediction(x_0=(x_t - noise) / at(schedule.sqrt_alpha_bar, t, x_t.ndim), eps=eps)


def _from_x_0(schedule: NoiseSchedule, output: Examples, x_t: Examples, t: Timesteps) -> Prediction:
    x_0 = output.astype(jnp.float32)
    data = at(schedule.sqrt_alpha_bar, t, x_t.ndim) * x_0
    noise_scale = at(schedule.sqrt_one_minus_alpha_bar, t, x_t.ndim)
    return Prediction(x_0=x_0, eps=(x_t - data) / noise_scale)


def _v_target(schedule: NoiseSchedule, x_0: Examples, eps: Examples, t: Timesteps) -> Examples:
    data_scale = at(schedule.sqrt_alpha_bar, t, x_0.ndim)
    noise_scale = at(schedule.sqrt_one_minus_alpha_bar, t, x_0.ndim)
    return data_scale * eps - noise_scale * x_0


def _from_v(schedule: NoiseSchedule, output: Examples, x_t: Examples, t: Timesteps) -> Prediction:
    v = output.astype(jnp.float32)
    data_scale = at(schedule.sqrt_alpha_bar, t, x_t.ndim)
    noise_scale = at(schedule.sqrt_one_minus_alpha_bar, t, x_t.ndim)
    return Prediction(
        x_0=data_scale * x_t - noise_scale * v, eps=noise_scale * x_t + data_scale * v
    )


PARAMETERIZATIONS: dict[str, Parameterization] = {
    "eps": Parameterization(lambda schedule, x_0, eps, t: eps, _from_eps, jnp.ones_like),
    "x_0": Parameterization(lambda schedule, x_0, eps, t: x_0, _from_x_0, jnp.exp),
    "v": Parameterization(_v_target, _from_v, jax.nn.sigmoid),
}


def clip(
    prediction: Prediction,
    schedule: NoiseSchedule,
    x_t: Examples,
    t: Timesteps,
    *,
    low: float = -1.0,
    high: float = 1.0,
) -> Prediction:
    """Returns the prediction with x_0 kept within [low, high], and the eps that agrees with it.

    A sampler that uses eps would otherwise not notice the clipping. t is in 1…T.
    """
    clipped = _from_x_0(schedule, jnp.clip(prediction.x_0, low, high), x_t, t)
    return prediction._replace(x_0=clipped.x_0, eps=clipped.eps)


def classifier_free_guidance(
    conditional: Denoiser, unconditional: Denoiser, weight: float | jax.Array
) -> Denoiser:
    """Returns the denoiser of classifier-free guidance: equation (10).

    Weight w = 0 is the conditional denoiser alone, w = -1 the unconditional one, and w > 0 goes
    beyond the conditional one (w + 1 is the guidance scale of other codebases). At a given x_t,
    x_0 is affine in eps, so the same combination of both keeps them in agreement. Clip the result,
    not its parts: the combination leaves the range that they keep.
    """

    def denoiser(x_t: Examples, t: Timesteps) -> Prediction:
        given, free = conditional(x_t, t), unconditional(x_t, t)
        return given._replace(
            x_0=given.x_0 + weight * (given.x_0 - free.x_0),
            eps=given.eps + weight * (given.eps - free.eps),
        )

    return denoiser
