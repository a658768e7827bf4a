"""Layers that more than one network is built from: NHWC, float32 parameters, any compute dtype."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.typing import Timesteps

# Ho et al.'s code initialises every kernel so; flax's default is fan_in, normal.
kernel_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def dense(
    features: int, *, dtype: DTypeLike, name: str, zero: bool = False, bias: bool = True
) -> nn.Dense:
    """Returns a linear map of the last axis; `zero` starts it at zero, to open a residual branch.

    Over an image's last axis it is a 1x1 convolution.
    """
    init = nn.initializers.zeros if zero else kernel_init
    return nn.Dense(features, use_bias=bias, kernel_init=init, dtype=dtype, name=name)


def conv3x3(
    features: int, *, dtype: DTypeLike, name: str, zero: bool = False, stride: int = 1
) -> nn.Conv:
    """Returns a 3x3 convolution with TensorFlow's SAME padding; `zero` starts it at zero.

    At stride 2 an even side is padded on its far end only, as in the paper's code.
    """
    init = nn.initializers.zeros if zero else kernel_init
    return nn.Conv(
        features, (3, 3), strides=stride, padding="SAME", kernel_init=init, dtype=dtype, name=name
    )


def timestep_embedding(t: Timesteps, dim: int) -> Float[Array, "B {dim}"]:
    """Returns sines, then cosines, of t at dim//2 frequencies from 1 down to 1/10000.

    t is any whole number, [B] or a scalar (then B is 1); the result is float32, and its last
    entry is zero where dim is odd. Raises ValueError for a dim below 4, which has no second
    frequency. Source: Vaswani et al. 2017, section 3.5, with the spacing of Ho et al.'s code.
    """
    if dim < 4:
        raise ValueError(f"a time embedding needs at least 4 dimensions, not {dim}")
    half = dim // 2
    frequencies = jnp.exp(jnp.arange(half, dtype=jnp.float32) * (-math.log(10_000) / (half - 1)))
    angles = jnp.atleast_1d(t).astype(jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def group_count(channels: int, most: int = 32) -> int:
    """Returns the largest number of equal groups, at most `most`, of two channels or more each.

    A group of one channel would subtract that channel's mean, and with it whatever the time
    embedding has just added to it: a narrow network would never know the time.
    """
    return next((n for n in range(min(most, channels // 2), 1, -1) if channels % n == 0), 1)


class GroupNorm(nn.Module):
    """Normalises each example over its pixels and groups of channels (Wu & He 2018, eq. 7).

    x is [B, ..., C]; the result has its shape, in `dtype`. `groups` is the most there may be
    (see `group_count`). Statistics are float32 whatever the dtype.
    """

    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B *pixels C"]) -> Float[Array, "B *pixels C"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.float32)
        mean, variance = _group_moments(x, group_count(channels, self.groups))
        return ((x - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias).astype(
            self.dtype
        )


def _group_moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and variance of each channel's group, [B, 1, ..., C], in one pass over x.

    Sums run over pixels alone, channels innermost and contiguous, and are combined by group
    afterwards: grouping x itself splits the innermost axis, which is 7 times slower on a CPU.
    """
    pixels = tuple(range(1, x.ndim - 1))
    # E[x²] - E[x]² cancels where the mean is large, so shift by one of the channel's own values.
    # Neither moment depends on the shift: no gradient passes through it.
    shift = jax.lax.stop_gradient(x[(slice(None), *(slice(0, 1) for _ in pixels))])
    shifted = x - shift
    first = shifted.mean(pixels, keepdims=True)
    second = jnp.square(shifted).mean(pixels, keepdims=True)
    of_channel = rearrange(first + shift, "... (g c) -> ... g c", g=groups)
    within = rearrange(second - jnp.square(first), "... (g c) -> ... g c", g=groups)
    mean = of_channel.mean(-1, keepdims=True)
    variance = (within + jnp.square(of_channel - mean)).mean(-1, keepdims=True)

    def per_channel(moment: jax.Array) -> jax.Array:
        return jnp.broadcast_to(moment, of_channel.shape).reshape(shift.shape)

    return per_channel(mean), per_channel(jnp.maximum(variance, 0.0))


class SelfAttention(nn.Module):
    """Adds to each pixel what it attends to over its whole image (Ho et al. 2020, appendix B).

    x is [B, H, W, C]; the result has its shape. Each head has `head_channels` channels, C/heads
    where that is None; `bias` is that of query, key and value; `groups` is the most that x is
    normalised in. The softmax is float32. The identity at initialisation. Raises ValueError where
    heads does not divide C and head_channels is None.
    """

    heads: int = 1
    dtype: DTypeLike = "float32"
    head_channels: int | None = None
    bias: bool = True
    groups: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        height, width, channels = x.shape[1:]
        if channels % self.heads and not self.head_channels:
            raise ValueError(f"{self.heads} attention heads do not divide {channels} channels")
        inner = self.heads * (self.head_channels or channels // self.heads)
        h = GroupNorm(self.groups, dtype=self.dtype, name="norm")(x)
        query, key, value = _heads(h, self.heads, inner, bias=self.bias, dtype=self.dtype)
        h = jax.nn.dot_product_attention(query, key, value)
        h = rearrange(h, "b (y x) n c -> b y x (n c)", y=height, x=width)
        return x + dense(channels, dtype=self.dtype, name="out", zero=True)(h)


class LinearAttention(nn.Module):
    """Adds to each pixel what it reads from one summary of its image (Shen et al. 2018, section 3).

    A key's softmax runs over the pixels and a query's over its features, so that a head's summary
    is [c, c] and the cost is linear in the pixels. x is [B, H, W, C]; the result has its shape.
    Each head has `head_channels` channels; `bias` is that of query, key and value (the keys' has no
    effect, as their softmax doesn't see it). What is added is normalised in one group, and so is
    what is read. The softmaxes are float32.
    """

    heads: int = 4
    head_channels: int = 32
    bias: bool = True
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        _, height, width, channels = x.shape
        inner = self.heads * self.head_channels
        h = GroupNorm(1, dtype=self.dtype, name="norm")(x)
        query, key, value = _heads(h, self.heads, inner, bias=self.bias, dtype=self.dtype)
        query = nn.softmax(query.astype(jnp.float32), axis=-1) * self.head_channels**-0.5
        key = nn.softmax(key.astype(jnp.float32), axis=1)
        summary = jnp.einsum("bpnk,bpnv->bnkv", key.astype(self.dtype), value)
        h = jnp.einsum("bpnk,bnkv->bpnv", query.astype(self.dtype), summary)
        h = rearrange(h, "b (y x) n c -> b y x (n c)", y=height, x=width)
        h = dense(channels, dtype=self.dtype, name="out")(h)
        # An average over all pixels is small: a smaller epsilon would make too much of it.
        return x + GroupNorm(1, epsilon=1e-5, dtype=self.dtype, name="norm_out")(h)


def _heads(
    x: Float[Array, "B H W C"], heads: int, inner: int, *, bias: bool, dtype: DTypeLike
) -> list[Float[Array, "B pixels heads c"]]:
    """Returns the query, key and value of each pixel and head; called inside a module."""
    return [
        rearrange(
            dense(inner, bias=bias, dtype=dtype, name=name)(x),
            "b y x (n c) -> b (y x) n c",
            n=heads,
        )
        for name in ("query", "key", "value")
    ]


def upsample_nearest(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    """Returns x with every pixel repeated twice along both sides."""
    batch, height, width, channels = x.shape
    twice = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return twice.reshape(batch, 2 * height, 2 * width, channels)
