"""Convolution of each channel with its own kernel."""

import jax
from jaxtyping import Array, Float

from ddpm_jax.ops.cpu.depthwise import shifted_convolution
from ddpm_jax.ops.dispatch import dispatch


def reference(
    x: Float[Array, "B H W C"], kernel: Float[Array, "height width C"]
) -> Float[Array, "B H W C"]:
    """Returns y[b, i, j, c] = Σ x[b, i + u - p, j + v - q, c] kernel[u, v, c].

    The kernel's height and width are odd, p and q are half of them (rounded down), and x is zero
    outside the image.
    Source: Chollet 2017, section 2.
    """
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


depthwise_convolution = dispatch(reference, cpu=shifted_convolution)
