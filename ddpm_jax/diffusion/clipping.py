"""Clipping: how a prediction of x_0 outside the range of the data is changed.

A row of `CLIPPINGS` makes a transform of a denoiser from the schedule. It comes after guidance,
because guidance moves a prediction out of the range.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ddpm_jax.diffusion.checks import check_prediction
from ddpm_jax.diffusion.parameterizations import PARAMETERIZATIONS, predict
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.tables import row_with
from ddpm_jax.typing import (
    Denoiser,
    DenoiserTransform,
    Examples,
    FractionalTimesteps,
    Prediction,
    Timesteps,
)


def none(schedule: NoiseSchedule) -> DenoiserTransform:
    """Returns the transform that changes nothing."""
    return lambda denoiser: denoiser


def clip(schedule: NoiseSchedule, *, low: float = -1.0, high: float = 1.0) -> DenoiserTransform:
    """Returns the transform that keeps x_0 within [low, high], with the eps that agrees with it.

    Without the new eps, a sampler that uses eps would ignore the clipping. Raises ValueError unless
    low < high.
    """
    if not low < high:
        raise ValueError(f"low is {low!r}; it must be below high, which is {high!r}")

    def transform(denoiser: Denoiser) -> Denoiser:
        def clipped(x_t: Examples, t: Timesteps | FractionalTimesteps) -> Prediction:
            prediction = check_prediction(denoiser(x_t, t), x_t)
            x_0 = jnp.clip(prediction.x_0, low, high)
            agreeing = predict(PARAMETERIZATIONS["x_0"], schedule, x_0, x_t=x_t, t=t)
            return prediction._replace(x_0=agreeing.x_0, eps=agreeing.eps)

        return clipped

    return transform


CLIPPINGS: dict[str, Callable[..., DenoiserTransform]] = {"none": none, "clip": clip}


def make_clipping(name: str, schedule: NoiseSchedule, **options: Any) -> DenoiserTransform:
    """Returns a row of `CLIPPINGS`; ValueError for an unknown name or option."""
    row = row_with("clipping", CLIPPINGS, name, options)
    return row(schedule, **options)
