"""Learned changes of an image's size by two.

They are a 4x4 convolution of stride 2, its transpose, and a 3x3 convolution of an image with each
pixel repeated, which is the same transpose with another kernel.

The gradient of a stride is a convolution over an image full of holes, and XLA has no fast kernel
for that on a CPU. The fast forms are 2x2 convolutions: of the image cut into blocks of 2x2 pixels,
or of stride 1 with a block for each result. The `…_blocks` functions rearrange the kernels.
"""

import functools

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


downsample = dispatch(downsample_reference, cpu=downsample_by_blocks)


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


def upsample_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Upsampling whose kernel gradient is that of the convolution of stride 2 that it transposes.

    JAX's own takes the result's gradient as the kernel of a convolution over x with holes, and a
    TPU reverses all of it first.
    """

    def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel = saved
        (of_x,) = jax.linear_transpose(lambda x: upsample_reference(x, kernel), x)(g)
        turned = jax.lax.conv_general_dilated(
            g,
            x,
            (1, 1),
            ((1, 1), (1, 1)),
            rhs_dilation=(2, 2),
            dimension_numbers=("CHWN", "IHWO", "NHWC"),
        )
        return of_x, rearrange(turned[:, ::-1, ::-1], "k y x c -> y x c k")

    convolve = jax.custom_vjp(upsample_reference)
    convolve.defvjp(lambda x, kernel: (upsample_reference(x, kernel), (x, kernel)), backward)
    return convolve(x, kernel)


upsample = dispatch(upsample_reference, cpu=upsample_by_blocks, tpu=upsample_transposed)


def upsample_nearest(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    """Returns x with every pixel repeated twice along both sides."""
    batch, height, width, channels = x.shape
    twice = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return twice.reshape(batch, 2 * height, 2 * width, channels)


def upsampled_convolution_reference(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C K"]
) -> Float[Array, "B 2*H 2*W K"]:
    """Returns the 3x3 convolution of x with every pixel repeated twice along both sides.

    There is one pixel of zeros around the repeated image.
    """
    return jax.lax.conv_general_dilated(
        upsample_nearest(x), kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT
    )


def repeated_kernel(kernel: Float[Array, "3 3 C K"]) -> Float[Array, "4 4 C K"]:
    """Returns the kernel with which `upsample` convolves x with each pixel repeated.

    It is the sum of four kernels, each moved by one pixel; float32 whatever the dtype is.
    """
    wide = kernel.astype(jnp.float32)
    ends = ((0, 1), (1, 0))
    moved = [jnp.pad(wide, (y, x, (0, 0), (0, 0))) for y in ends for x in ends]
    return functools.reduce(jnp.add, moved)


def upsampled_convolution_transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Four ninths of the products, and nothing of the repeated image is written."""
    return upsample_transposed(x, repeated_kernel(kernel).astype(x.dtype))


def upsampled_convolution_by_pixels(
    x: jax.Array, kernel: jax.Array, *, precision: str | None, devices: int
) -> jax.Array:
    """The reference with a CPU's convolution, which with its gradient is as fast as 2x2 ones."""
    return cpu_convolution(upsample_nearest(x), kernel, precision=precision, devices=devices)


upsampled_convolution = dispatch(
    upsampled_convolution_reference,
    cpu=upsampled_convolution_by_pixels,
    tpu=upsampled_convolution_transposed,
)
