"""Clipping: how a prediction of x_0 outside the range of the data is changed.

A row of `CLIPPINGS` makes a transform of a denoiser from the schedule. It comes after guidance,
because guidance moves a prediction out of the range.

Each row has the option `eps`. `recomputed` gives the eps that agrees with the new x_0 by equation
(2) of `gaussian`, so that x_t, x_0 and eps stay what they are to each other. `kept` leaves the
network's: then a sampler that uses eps, as DDIM does, follows its x_0 less. diffusers' DDIM keeps
it by default.
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


def clip(
    schedule: NoiseSchedule, *, low: float = -1.0, high: float = 1.0, eps: str = "recomputed"
) -> DenoiserTransform:
    """Returns the transform that keeps x_0 within [low, high].

    Raises ValueError unless low < high, and for an unknown `eps`.
    """
    if not low < high:
        raise ValueError(f"low is {low!r}; it must be below high, which is {high!r}")
    return _changing(schedule, lambda x_0: jnp.clip(x_0, low, high), eps)


def dynamic(
    schedule: NoiseSchedule,
    *,
    quantile: float = 0.995,
    most: float | None = None,
    eps: str = "recomputed",
) -> DenoiserTransform:
    """Returns dynamic thresholding, for data in [-1, 1]: Saharia et al. 2022, section 2.3.

    Each example's x_0 is clipped to [-s, s] and divided by s, which is the quantile of its absolute
    values, at least 1 and at most `most` (None for no limit). Where all of them but a share of
    1 - quantile lie within [-1, 1], it is the clip. Raises ValueError for a quantile outside
    (0, 1], `most` below 1, and an unknown `eps`.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile is {quantile:g}: it must be above 0 and at most 1")
    if most is not None and not most >= 1:
        raise ValueError(f"most is {most:g}: it must be 1 or more")

    def threshold(x_0: Examples) -> Examples:
        axes = tuple(range(1, x_0.ndim))
        s = jnp.quantile(jnp.abs(x_0), quantile, axis=axes, keepdims=True)
        s = jnp.clip(s, 1.0, most)
        return jnp.clip(x_0, -s, s) / s

    return _changing(schedule, threshold, eps)


def _changing(
    schedule: NoiseSchedule, change: Callable[[Examples], Examples], eps: str
) -> DenoiserTransform:
    """Returns the transform that changes x_0, with its eps recomputed or kept."""
    if eps not in ("recomputed", "kept"):
        raise ValueError(f"eps is {eps!r}: it must be recomputed or kept")

    def transform(denoiser: Denoiser) -> Denoiser:
        def changed(x_t: Examples, t: Timesteps | FractionalTimesteps) -> Prediction:
            prediction = check_prediction(denoiser(x_t, t), x_t)
            x_0 = change(prediction.x_0)
            if eps == "kept":
                return prediction._replace(x_0=x_0)
            agreeing = predict(PARAMETERIZATIONS["x_0"], schedule, x_0, x_t=x_t, t=t)
            return prediction._replace(x_0=agreeing.x_0, eps=agreeing.eps)

        return changed

    return transform


CLIPPINGS: dict[str, Callable[..., DenoiserTransform]] = {
    "none": none,
    "clip": clip,
    "dynamic": dynamic,
}


def make_clipping(name: str, schedule: NoiseSchedule, **options: Any) -> DenoiserTransform:
    """Returns a row of `CLIPPINGS`; ValueError for an unknown name or option."""
    row = row_with("clipping", CLIPPINGS, name, options)
    return row(schedule, **options)
