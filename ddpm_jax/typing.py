"""Array aliases with their shapes, and the two types that every part agrees on."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

# `B` is the batch; the axes behind it are an image's (height, width, channels) or a point's (2,).
Examples = Float[Array, "B *shape"]
PerExample = Float[Array, "B"]
Timesteps = Int[Array, "B"] | Int[Array, ""]
Labels = Int[Array, "B"]
Keys = Key[Array, "B"]
Pixels = UInt8[Array, "B *shape"]
PyTree = dict[str, "PyTree"] | jax.Array


class Conditioning(NamedTuple):
    """What a network is given beside x_t and t; None for what there is not."""

    labels: Labels | None = None
    """int32 `[B]` in 0…num_classes, where num_classes itself means "no class"."""
    image: Examples | None = None
    """float32 `[B, H, W, C']` in [-1, 1], of the height and width of x_t."""
    image_noise: Timesteps | None = None
    """The noise level of `image`, in 0…T: Ho et al. 2021, section 4.2."""


class Prediction(NamedTuple):
    """What a network knows of x_t, in the forms that every sampler can use.

    Every parameterization is converted to this one form, so that N of them need 2N conversions.
    x_0 and eps are float32 with the shape of x_t, and agree:
    x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) eps.
    """

    x_0: Examples
    eps: Examples
    variance_fraction: Examples | None = None
    """f in [0, 1] of log σ² = f log β_{t|s} + (1 - f) log β̃ (Nichol & Dhariwal 2021, equation 15);
    None where the variance is not learned."""


# t is in 1…T, one for all or one for each example.
Denoiser = Callable[[Examples, Timesteps], Prediction]
# Replaces x_0 and eps by `_replace`, so that the other fields of a prediction pass through.
DenoiserTransform = Callable[[Denoiser], Denoiser]


class Batch(NamedTuple):
    """What a source gives and a training step takes.

    `examples` are uint8 pixels `[B, H, W, C]`, or float32 points `[B, 2]` already on their scale;
    `labels` are int32 `[B]` in 0…classes-1, or None where the data has none. NumPy's arrays on the
    host, JAX's on the device.
    """

    examples: Pixels | Examples | np.ndarray
    labels: Labels | np.ndarray | None


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether examples of this shape are images (height, width, channels), and not points."""
    return len(shape) == 3
