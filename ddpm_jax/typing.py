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


class Prediction(NamedTuple):
    """What a network knows of x_t, in the two forms that every sampler can use.

    Whatever a network predicts ends here, so that N parameterizations need 2N conversions.
    Both are float32 with the shape of x_t, and agree: x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) eps.
    """

    x_0: Examples
    eps: Examples


# Closes over parameters, labels, guidance and clipping; t is in 1…T, one for all or one each.
Denoiser = Callable[[Examples, Timesteps], Prediction]


class Batch(NamedTuple):
    """What a source gives and a training step takes.

    `examples` are uint8 pixels `[B, H, W, C]`, or float32 points `[B, 2]` already on their scale;
    `labels` are int32 `[B]` in 0…classes-1, or None where the data has none. NumPy's arrays on the
    host, JAX's on the device.
    """

    examples: Pixels | Examples | np.ndarray
    labels: Labels | np.ndarray | None
