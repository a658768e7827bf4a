"""Conversion between pixels, 0 … 255, and the network's range, -1 … 1; random mirroring."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from ddpm_jax.typing import Examples, Pixels


def to_unit(examples: Pixels | Examples) -> Examples:
    """Returns uint8 pixels as float32 in [-1, 1], x / 127.5 - 1; floats are returned unchanged.

    Source: Ho et al. 2020, section 3.3.
    """
    if examples.dtype != jnp.uint8:
        return examples
    # A compiler may multiply by 1 / 127.5 instead of dividing, which makes white 1.0000001. Here
    # the difference is exact and the product is rounded once, compiled or not.
    return (2 * examples.astype(jnp.float32) - 255) * (1 / 255)


def to_pixels(x: Examples | np.ndarray) -> Pixels | np.ndarray:
    """Returns values in [-1, 1] as the nearest uint8 pixels; values outside are clipped.

    The inverse of `to_unit`. A JAX array gives a JAX array, and a NumPy array gives a NumPy array.
    """
    xp = jnp if isinstance(x, jax.Array) else np
    return xp.clip(xp.rint((x + 1) * 127.5), 0, 255).astype(xp.uint8)


def random_flip(key: Key[Array, ""], x: Pixels | Examples) -> Pixels | Examples:
    """Returns images `[B, H, W, C]`, each mirrored left to right with probability 1/2.

    Every row of the batch has its own draw, so a step's key gives the same flips on any number of
    devices.
    """
    mirrored = jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1))
    return jnp.where(mirrored, x[:, :, ::-1], x)
