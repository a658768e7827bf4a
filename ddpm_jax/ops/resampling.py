"""Learned changes of an image's size by two: a 4x4 convolution of stride 2, and its transpose.

The gradient of a stride is a convolution over an image full of holes, and XLA has no fast kernel
for that on a CPU. The fast forms are 2x2 convolutions: of the image cut into blocks of 2x2 pixels,
or of stride 1 with a block for each result. The `…_blocks` functions rearrange the kernels.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ddpm_jax.ops.cpu.convolution import cpu_convolution
from ddpm_jax.ops.dispatch import dispatch

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def downsample_reference(
    x: Float[Array, "B H W C"], kernel: Float[Array, "4 4 C K"]
) -> Float[Array, "B H//2 W//2 K"]:
    """Returns the 4x4 convolution of stride 2 of x with one pixel of zeros around it.

    Height and width of x are even.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT
    )


def downsample_blocks(kernel: Float[Array, "4 4 C K"]) -> Float[Array, "2 2 4*C K"]:
    """Returns the 2x2 kernel over blocks of 2x2 pixels: row 2 y + i of the kernel is (y, i)."""
    return rearrange(kernel, "(y i) (x j) c k -> y x (i j c) k", i=2, j=2)


def downsample_kernel(blocks: Float[Array, "2 2 4*C K"]) -> Float[Array, "4 4 C K"]:
    """Returns the 4x4 kernel of a 2x2 one over blocks: the inverse of `downsample_blocks`."""
    return rearrange(blocks, "y x (i j c) k -> (y i) (x j) c k", i=2, j=2)


def downsample_by_blocks(
    x: jax.Array, kernel: jax.Array, *, precision: str | None, devices: int
) -> jax.Array:
    """Downsampling as a 2x2 convolution of blocks."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return cpu_convolution(
        rearrange(x, "b (y i) (x j) c -> b y x (i j c)", i=2, j=2),
        downsample_blocks(kernel),
        padding="VALID",
        precision=precision,
        devices=devices,
    )


downsample = dispatch(
    downsample_reference, cpu=downsample_by_blocks, settings=("precision", "devices")
)


def upsample_reference(
    x: Float[Array, "B H W C"], kernel: Float[Array, "4 4 C K"]
) -> Float[Array, "B 2*H 2*W K"]:
    """Returns the convolution of the kernel with x after inserting zeros between its pixels.

    That is `jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")`. PyTorch's `ConvTranspose2d(C, K, 4,
    2, 1)` has the same kernel turned by 180 degrees, as [C, K, 4, 4].
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=_LAYOUT
    )


def upsample_blocks(kernel: Float[Array, "4 4 C K"]) -> Float[Array, "2 2 C 4*K"]:
    """Returns the 2x2 kernel that gives blocks of 2x2 pixels: pixel i has rows 1 - i and 3 - i."""
    split = rearrange(kernel, "(y i) (x j) c k -> y i x j c k", i=2, j=2)
    return rearrange(split[:, ::-1, :, ::-1], "y i x j c k -> y x c (i j k)")


def upsample_kernel(blocks: Float[Array, "2 2 C 4*K"]) -> Float[Array, "4 4 C K"]:
    """Returns the 4x4 kernel of a 2x2 one that gives blocks: the inverse of `upsample_blocks`."""
    split = rearrange(blocks, "y x c (i j k) -> y i x j c k", i=2, j=2)
    return rearrange(split[:, ::-1, :, ::-1], "y i x j c k -> (y i) (x j) c k")


def upsample_by_blocks(
    x: jax.Array, kernel: jax.Array, *, precision: str | None, devices: int
) -> jax.Array:
    """Upsampling as a 2x2 convolution that gives blocks."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    blocks = cpu_convolution(
        x, upsample_blocks(kernel), padding="VALID", precision=precision, devices=devices
    )
    pixels = rearrange(blocks, "b y x (i j k) -> b (y i) (x j) k", i=2, j=2)
    return pixels[:, 1:-1, 1:-1]


upsample = dispatch(upsample_reference, cpu=upsample_by_blocks, settings=("precision", "devices"))
