"""Convolutions of another kind than a plain 3x3: of stride 2 both ways, and of single channels.

Each is written so that XLA runs it fast on a CPU, which its own forms of them are not.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.models.layers import convolution, kernel_init
from ddpm_jax.models.on_cpu import apart


class Halve(nn.Module):
    """A 4×4 convolution of stride 2, padded by 1: `[B, H, W, C]` to `[B, H/2, W/2, C]`.

    It is a 2×2 convolution of the picture cut into blocks of 2×2 pixels. The gradient of a stride
    is a convolution over an image full of holes, which XLA has no fast kernel for on a CPU.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        blocks = rearrange(x, "b (y i) (x j) c -> b y x (i j c)", i=2, j=2)
        return _conv2x2(x.shape[-1], dtype=self.dtype, name="conv")(blocks)


class Double(nn.Module):
    """A transposed 4×4 convolution of stride 2: `[B, H, W, C]` to `[B, 2 H, 2 W, C]`.

    `Halve` the other way round: a 2×2 convolution whose channels are the pixels of 2×2 blocks.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        blocks = _conv2x2(4 * x.shape[-1], dtype=self.dtype, name="conv", use_bias=False)(x)
        pixels = rearrange(blocks, "b y x (i j c) -> b (y i) (x j) c", i=2, j=2)
        return pixels[:, 1:-1, 1:-1] + bias.astype(self.dtype)


def _conv2x2(features: int, *, dtype: DTypeLike, name: str, use_bias: bool = True) -> nn.Conv:
    return nn.Conv(
        features,
        (2, 2),
        padding="VALID",
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
        use_bias=use_bias,
        conv_general_dilated=convolution,
    )


@jax.custom_vjp
def depthwise_conv(
    x: Float[Array, "B H W C"], kernel: Float[Array, "side side C"]
) -> Float[Array, "B H W C"]:
    """Returns each channel convolved with its own kernel, of odd sides, zeros around the image.

    On a CPU as shifted multiply-adds: XLA's grouped convolution takes ten times as long there, and
    its gradient longer still. Accelerators have kernels for the grouped one.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_shifted_conv, default=_grouped_conv)


def _depthwise_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return depthwise_conv(x, kernel), (x, kernel)


def _depthwise_backward(saved: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    def grouped(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(_grouped_conv, x, kernel)[1](g)

    return jax.lax.platform_dependent(*saved, g, cpu=_shifted_conv_vjp, default=grouped)


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


def _grouped_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _framed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Pads float32 images for all shifts of the kernel."""
    frame = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jnp.pad(x.astype(jnp.float32), ((0, 0), *frame, (0, 0)))


def _shifted_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    height, width = x.shape[1:3]
    shifts = list(itertools.product(*map(range, kernel.shape[:2])))

    def summed(framed: jax.Array, kernel: jax.Array) -> jax.Array:
        h = sum(framed[:, i : i + height, j : j + width] * kernel[i, j] for i, j in shifts)
        return jnp.asarray(h, x.dtype)

    # Else XLA computes anew whatever x is made of for each shift, and the sum wherever it is used,
    # which a normalisation does twice.
    return apart(summed, _framed(x, kernel), kernel, by=kernel)


# So many bands of pixels are added up at once: of a longer sum XLA computes the parts one by one.
_TOGETHER = 8
# The numbers in a band at most: the bands of a sum, and their gradients, fit a core's cache.
_BAND = 2**15


def _shifted_conv_vjp(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, columns = kernel.shape[:2]
    height = x.shape[1]
    framed, g_bands = _framed(x, kernel), g.astype(jnp.float32)
    count = min(height, -(-x[0].size // _BAND))
    tall = -(-height // count)
    count = -(-height // tall)
    rest = ((0, 0), (0, count * tall - height), (0, 0), (0, 0))
    framed, g_bands = jnp.pad(framed, rest), jnp.pad(g_bands, rest)
    bands = [framed[:, n * tall : (n + 1) * tall + rows - 1] for n in range(count)]
    framed = _in_groups(rearrange(jnp.stack(bands, 1), "b n y x c -> (b n) y x c"))
    g_bands = _in_groups(rearrange(g_bands, "b (n y) x c -> (b n) y x c", n=count))

    # A sum over the pixels of an image whose channels come last is one that XLA doesn't vectorize:
    # first bands are added pixel by pixel, then, of an eighth of the numbers, the pixels. The loop
    # over shifts is what writes the first sum down: else XLA makes one of both.
    def add(total: jax.Array, group: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        def shifted(n: jax.Array) -> jax.Array:
            start = (n // columns, n % columns, 0)
            pairs = zip(*group, strict=True)
            products = [jax.lax.dynamic_slice(x, start, g.shape) * g for x, g in pairs]
            return functools.reduce(jnp.add, products)

        return total + jax.lax.map(shifted, jnp.arange(rows * columns)).sum((1, 2)), None

    zero = jnp.zeros((rows * columns, x.shape[-1]))
    total, _ = jax.lax.scan(add, zero, (framed, g_bands))
    return _shifted_conv(g, kernel[::-1, ::-1]), total.reshape(kernel.shape).astype(kernel.dtype)


def _in_groups(bands: jax.Array) -> jax.Array:
    """Returns bands `[N, …]` as `[N / n, n, …]`, filled up with zeros."""
    groups = -(-len(bands) // _TOGETHER)
    size = -(-len(bands) // groups)
    filled = jnp.pad(bands, ((0, groups * size - len(bands)), (0, 0), (0, 0), (0, 0)))
    return filled.reshape(groups, size, *bands.shape[1:])


class DepthwiseConv(nn.Module):
    """Convolves each channel of x `[B, H, W, C]` with its own `side`×`side` kernel, and a bias."""

    side: int = 7
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        # A channel's fan is its own window alone, in and out.
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "uniform", in_axis=(0, 1), out_axis=(), batch_axis=2
        )
        kernel = self.param("kernel", init, (self.side, self.side, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        return depthwise_conv(x.astype(self.dtype), kernel) + bias
