"""Convolution of images."""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float

from ddpm_jax.ops.cpu.convolution import cpu_convolution
from ddpm_jax.ops.dispatch import dispatch

Padding = str | Sequence[tuple[int, int]]


def reference(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "height width C K"],
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
) -> Float[Array, "B h w K"]:
    """Returns y[b, i, j, k] = Σ x[b, s i + u - p, s j + v - q, c] kernel[u, v, c, k].

    s are the strides, p and q the padding before each axis. "SAME" is TensorFlow's: the result has
    sides of ⌈side / stride⌉, and odd padding puts one more zero at the far end.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


convolution = dispatch(reference, cpu=cpu_convolution)
