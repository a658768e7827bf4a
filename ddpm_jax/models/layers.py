"""Layers that several networks are built from: NHWC, float32 parameters, any compute dtype."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.ops import Operations
from ddpm_jax.ops.linear_attention import Linear, Weights
from ddpm_jax.ops.resampling import downsample_kernel, upsample_kernel

# Ho et al.'s code initialises every kernel like this; Flax's default is fan_in, normal.
kernel_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zeros = nn.initializers.zeros


class Dense(nn.Module):
    """A linear map of the last axis: for an image, a 1x1 convolution."""

    features: int
    bias: bool = True
    kernel_init: nn.initializers.Initializer = kernel_init
    dtype: DTypeLike = "float32"
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: Float[Array, "*rows C"]) -> Float[Array, "*rows features"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = self.ops.dense(x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.bias:
            return y
        return y + self.param("bias", zeros, (self.features,)).astype(self.dtype)


class Conv(nn.Module):
    """A convolution with a square kernel and a bias.

    The padding is TensorFlow's: at stride 2 an even side is padded at its far end only, as in Ho et
    al.'s code. With `symmetric` both ends are padded alike, as in PyTorch.
    """

    features: int
    side: int = 3
    stride: int = 1
    symmetric: bool = False
    kernel_init: nn.initializers.Initializer = kernel_init
    dtype: DTypeLike = "float32"
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w features"]:
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        bias = self.param("bias", zeros, (self.features,)).astype(self.dtype)
        half = self.side // 2
        padding = ((half, half), (half, half)) if self.symmetric else "SAME"
        options: dict[str, Any] = {"strides": (self.stride, self.stride), "padding": padding}
        return self.ops.convolution(x.astype(self.dtype), kernel, **options) + bias


class UpsampledConv(nn.Module):
    """A 3×3 convolution, with a bias, of x with every pixel repeated twice along both sides."""

    features: int
    dtype: DTypeLike = "float32"
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W features"]:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape).astype(self.dtype)
        bias = self.param("bias", zeros, (self.features,)).astype(self.dtype)
        return self.ops.upsampled_convolution(x.astype(self.dtype), kernel) + bias


class DepthwiseConv(nn.Module):
    """Convolves each channel of x `[B, H, W, C]` with its own `side`×`side` kernel, and a bias."""

    side: int = 7
    dtype: DTypeLike = "float32"
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels = x.shape[-1]
        # The fan-in and fan-out of a channel are the size of its window.
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "uniform", in_axis=(0, 1), out_axis=(), batch_axis=2
        )
        kernel = self.param("kernel", init, (self.side, self.side, channels)).astype(self.dtype)
        bias = self.param("bias", zeros, (channels,)).astype(self.dtype)
        return self.ops.depthwise_convolution(x.astype(self.dtype), kernel) + bias


class _Kernel(nn.Module):
    """The parameters of a 4x4 convolution of stride 2 or of its transpose.

    The kernel is initialised as the equivalent 2x2 kernel over blocks of 2x2 pixels, and then
    rearranged.
    """

    channels: int
    down: bool

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "4 4 C C"], Float[Array, " C"] | None]:
        C = self.channels
        shape = (2, 2, 4 * C, C) if self.down else (2, 2, C, 4 * C)
        rearranged = downsample_kernel if self.down else upsample_kernel

        def init(key: jax.Array, _: tuple[int, ...]) -> jax.Array:
            return rearranged(kernel_init(key, shape))

        kernel = self.param("kernel", init, (4, 4, C, C))
        return kernel, self.param("bias", zeros, (C,)) if self.down else None


class Downsample(nn.Module):
    """A 4×4 convolution of stride 2, padded by 1: `[B, H, W, C]` to `[B, H/2, W/2, C]`."""

    dtype: DTypeLike = "float32"
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
        kernel, bias = _Kernel(x.shape[-1], down=True, name="conv")()
        x, kernel, bias = (jnp.asarray(each, self.dtype) for each in (x, kernel, bias))
        return self.ops.downsample(x, kernel) + bias


class Upsample(nn.Module):
    """A transposed 4×4 convolution of stride 2: `[B, H, W, C]` to `[B, 2 H, 2 W, C]`."""

    dtype: DTypeLike = "float32"
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
        bias = self.param("bias", zeros, (x.shape[-1],)).astype(self.dtype)
        kernel, _ = _Kernel(x.shape[-1], down=False, name="conv")()
        return self.ops.upsample(x.astype(self.dtype), kernel.astype(self.dtype)) + bias


def downsample_mean(x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
    """Returns the mean of each block of 2×2 pixels; height and width of x are even."""
    return rearrange(x, "b (y i) (x j) c -> b y x (i j) c", i=2, j=2).mean(3)


def group_count(channels: int, most: int = 32) -> int:
    """Returns the largest number of equal groups, at most `most`, of two channels or more each.

    A group of one channel would subtract that channel's mean, and with it the time embedding that
    was just added. So a narrow network would not see the time.
    """
    return next((n for n in range(min(most, channels // 2), 1, -1) if channels % n == 0), 1)


class GroupNorm(nn.Module):
    """Normalises each example over its pixels and groups of channels (Wu & He 2018, equation 7).

    x is [B, ..., C]; the result has its shape, in `dtype`. There are at most `groups` groups (see
    `group_count`). Statistics are float32 whatever the dtype. `activation` names the operation,
    such as "swish", that is applied to the result. `joints` are the channels where x was
    concatenated.
    """

    groups: int = 32
    epsilon: float = 1e-6
    activation: str | None = None
    dtype: DTypeLike = "float32"
    ops: Operations = Operations()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *pixels C"], joints: tuple[int, ...] = ()
    ) -> Float[Array, "B *pixels C"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", zeros, (channels,))
        options: dict[str, Any] = {"groups": group_count(channels, self.groups)}
        if self.activation:
            options["activation"] = getattr(self.ops, self.activation)
        return self.ops.group_norm(
            x, scale, bias, epsilon=self.epsilon, dtype=self.dtype, joints=joints, **options
        )


class Dropout(nn.Module):
    """Sets a share `rate` of x to zero, and divides the rest by 1 - rate (Srivastava et al. 2014).

    x is [B, rows, ...]; the rate is rounded to 1/65536. Needs the rng 'dropout' if it is above 0.
    """

    rate: float
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: Float[Array, "B rows *rest"]) -> Float[Array, "B rows *rest"]:
        if self.rate == 0:
            return x
        # A random word serves two rows: the words take longer than a pass over x.
        batch, rows, *rest = x.shape
        words = jax.random.bits(self.make_rng("dropout"), (batch, -(-rows // 2), *rest), "uint32")
        kept = max(1, round((1 - self.rate) * 2**16))
        halves = words >> 16 < kept, words & 0xFFFF < kept
        # Else each convolution that reads x draws its mask again, forward and backward: on a TPU
        # that is a fifth of a residual block's time.
        mask = self.ops.stored(jnp.concatenate(halves, axis=1)[:, :rows])
        return jnp.where(mask, x / (kept / 2**16), 0)


class SelfAttention(nn.Module):
    """Adds to each pixel its attention over the whole image (Ho et al. 2020, appendix B).

    x is [B, H, W, C]; the result has its shape. Each head has `head_channels` channels, C/heads if
    that is None; `bias` is that of query, key and value; x is normalised in at most `groups`
    groups, with `epsilon`. It is the identity at initialisation. Raises ValueError if head_channels
    is None and heads does not divide C.
    """

    heads: int = 1
    head_channels: int | None = None
    bias: bool = True
    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = "float32"
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        height, width, channels = x.shape[1:]
        if channels % self.heads and not self.head_channels:
            raise ValueError(f"{self.heads} attention heads do not divide {channels} channels")
        inner = self.heads * (self.head_channels or channels // self.heads)
        common: dict[str, Any] = {"dtype": self.dtype, "ops": self.ops}
        h = GroupNorm(self.groups, self.epsilon, **common, name="norm")(x)
        query, key, value = (
            rearrange(
                Dense(inner, bias=self.bias, **common, name=name)(h),
                "b y x (n c) -> b (y x) n c",
                n=self.heads,
            )
            for name in ("query", "key", "value")
        )
        h = self.ops.attention(query, key, value)
        h = rearrange(h, "b (y x) n c -> b y x (n c)", y=height, x=width)
        return x + Dense(channels, kernel_init=zeros, **common, name="out")(h)


class _LinearWeights(nn.Module):
    """The weights of a dense layer, without its product."""

    features: int
    bias: bool = True

    @nn.compact
    def __call__(self, inputs: int) -> Linear:
        kernel = self.param("kernel", kernel_init, (inputs, self.features))
        bias = self.param("bias", zeros, (self.features,)) if self.bias else None
        return Linear(kernel, bias)


class LinearAttention(nn.Module):
    """Adds to each pixel what it reads from a summary of its image (Shen et al. 2018, section 3).

    x is [B, H, W, C]; the result has its shape. Each head has `head_channels` channels; `bias` is
    that of query, key and value (that of the keys has no effect, because their softmax over pixels
    does not see it). x is normalised in one group, with `epsilon`, and so is what is added to it,
    always with 1e-5.
    """

    heads: int = 4
    head_channels: int = 32
    bias: bool = True
    epsilon: float = 1e-5
    dtype: DTypeLike = "float32"
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        channels, inner = x.shape[-1], self.heads * self.head_channels
        common: dict[str, Any] = {"dtype": self.dtype, "ops": self.ops}
        h = GroupNorm(1, self.epsilon, **common, name="norm")(x)
        query, key, value = (
            _LinearWeights(inner, self.bias, name=name)(channels)
            for name in ("query", "key", "value")
        )
        weights = Weights(query, key, value, _LinearWeights(channels, name="out")(inner))
        pixels = rearrange(h, "b y x c -> b (y x) c")
        h = self.ops.linear_attention(pixels, weights, heads=self.heads).reshape(x.shape)
        # An average over all pixels is small, and a smaller epsilon would enlarge it too much.
        return x + GroupNorm(1, epsilon=1e-5, **common, name="norm_out")(h)
