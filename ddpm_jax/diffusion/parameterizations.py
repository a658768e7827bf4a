"""What a network may predict, and how each choice becomes the same (x_0, eps).

A network sees x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) eps, equation (2) of `gaussian`. Each of these
predictions determines the others:

(7)  eps, unless ᾱ_T is 0                             Ho et al. 2020, section 3.2
(8)  x_0                                              the same section
(9)  v = sqrt(ᾱ_t) eps - sqrt(1 - ᾱ_t) x_0            Salimans & Ho 2022, appendix D

(x_0, eps) is (x_t, v) turned by the angle arctan(sqrt(1/SNR_t)), so v needs no division. An error
of x_0 gives squared errors of the three that are related by

(10) ‖δeps‖² = SNR_t ‖δx_0‖² = ᾱ_t ‖δv‖²

The output of a network with a learned variance has 2C channels: the first C are (7), (8) or (9),
the others are v̂ in [-1, 1], whose f = (v̂ + 1)/2 is that of equation (6).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ddpm_jax.diffusion.checks import check_examples, check_times, known
from ddpm_jax.diffusion.gaussian import choose_variance
from ddpm_jax.diffusion.schedules import NoiseSchedule, at, continuous
from ddpm_jax.typing import Examples, FractionalTimesteps, PerExample, Prediction, Timesteps


class Parameterization(NamedTuple):
    """One choice of what the first C channels of a network's output mean.

    `target` is what they should be. `to_prediction` turns C channels of any float type into
    float32 (x_0, eps) that agree with x_t. `eps_loss_factor` takes log SNR `[B]`: the squared error
    of the output, times this factor, is the squared error of eps by equation (10).
    """

    target: Callable[[NoiseSchedule, Examples, Examples, Timesteps], Examples]  # x_0, eps, t
    to_prediction: Callable[[NoiseSchedule, Examples, Examples, Timesteps], Prediction]
    eps_loss_factor: Callable[[PerExample], PerExample]


def _from_eps(schedule: NoiseSchedule, output: Examples, x_t: Examples, t: Timesteps) -> Prediction:
    if known(schedule.alpha_bar[-1]) == 0:
        raise ValueError("x_0 can't be found from eps where the SNR is 0; predict v or x_0")
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


def output_channels(channels: int, variance: str | None) -> int:
    """Returns how many channels a network's output has, for examples of C `channels`.

    `variance` is an objective's: a row of `VARIANCES` or None, and ValueError otherwise.
    """
    learned = variance is not None and choose_variance(variance) is None
    return channels * (2 if learned else 1)


def split_output(output: Array, channels: int) -> tuple[Array, Array | None]:
    """Returns the output's first C = `channels` channels, and the fraction f of the other C.

    f is float32, or None if the output has C channels. Raises ValueError for any other number.
    """
    if output.shape[-1] == channels:
        return output, None
    if output.shape[-1] != 2 * channels:
        raise ValueError(
            f"the network gives {output.shape[-1]} channels for examples of {channels}; "
            f"it must give {channels}, or {2 * channels} with a learned variance"
        )
    return output[..., :channels], (output[..., channels:].astype(jnp.float32) + 1) / 2


def predict(
    parameterization: Parameterization,
    schedule: NoiseSchedule,
    output: Array,
    *,
    x_t: Examples,
    t: Timesteps | FractionalTimesteps,
) -> Prediction:
    """Returns the prediction that a network's output `[B, …, C]` or `[B, …, 2C]` stands for.

    This is the one place where an output is divided and converted. t is in 1…T, whole or not.
    Raises TypeError for arrays that do not fit together.
    """
    output, fraction = split_output(output, x_t.shape[-1])
    check_examples(t, x_t=x_t, output=output)
    check_times(t, schedule.T, noisy=True, fractional=True)
    if jnp.issubdtype(t.dtype, jnp.floating):
        schedule, t = continuous(schedule, t), jnp.arange(t.size).reshape(t.shape)
    prediction = parameterization.to_prediction(schedule, output, x_t, t)
    return prediction._replace(variance_fraction=fraction)
