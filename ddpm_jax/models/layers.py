"""Layers that more than one network is built from: NHWC, float32 parameters, any compute dtype."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.models import winograd
from ddpm_jax.models.on_cpu import apart, apart_on_cpu
from ddpm_jax.typing import Timesteps

Activation = Callable[[jax.Array], jax.Array]

# Ho et al.'s code initialises every kernel so; flax's default is fan_in, normal.
kernel_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def dense(
    features: int, *, dtype: DTypeLike, name: str, zero: bool = False, bias: bool = True
) -> nn.Dense:
    """Returns a linear map of the last axis; `zero` starts it at zero, to open a residual branch.

    Over an image's last axis it is a 1x1 convolution.
    """
    init = nn.initializers.zeros if zero else kernel_init
    return nn.Dense(
        features,
        use_bias=bias,
        kernel_init=init,
        dtype=dtype,
        name=name,
        dot_general=_dot_of_rows,
    )


def _dot_of_rows(x: jax.Array, kernel: jax.Array, dims: Any, **options: Any) -> jax.Array:
    """`x @ kernel` with all axes of x but the last as one.

    The kernel's gradient is then a plain product of matrices; over several axes XLA transposes both
    of its sides first, which takes longer than the product on a CPU.
    """
    product = _narrow_product if kernel.shape[-1] <= _NARROW else _product
    rows = product(x.reshape(-1, x.shape[-1]), kernel, **options)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


_NARROW = 4


def _product(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    return jax.lax.dot_general(x, kernel, (((1,), (0,)), ((), ())), **options)


def _narrow_product(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    """`x @ kernel` for a kernel to a point's few coordinates.

    Its gradients are small work, which XLA's library on a CPU takes longer for than for that of a
    whole layer: they are written here as it does them quickly.
    """

    @jax.custom_vjp
    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _product(x, kernel, **options)

    def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, kernel = saved
        of_x = sum(g[:, j : j + 1] * kernel[:, j] for j in range(g.shape[-1]))
        of_kernel = _product(apart_on_cpu(g.T), x, **options).T
        return of_x, of_kernel  # type: ignore  # A kernel has a column, so the sum is no 0.

    product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), backward)
    return product(x, kernel)


def conv3x3(
    features: int, *, dtype: DTypeLike, name: str, zero: bool = False, stride: int = 1
) -> nn.Conv:
    """Returns a 3x3 convolution with TensorFlow's SAME padding; `zero` starts it at zero.

    At stride 2 an even side is padded on its far end only, as in the paper's code.
    """
    init = nn.initializers.zeros if zero else kernel_init
    return nn.Conv(
        features,
        (3, 3),
        strides=stride,
        padding="SAME",
        kernel_init=init,
        dtype=dtype,
        name=name,
        conv_general_dilated=convolution,
    )


def convolution(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated` of NHWC images, with gradients that are fast on a CPU too.

    Raises ValueError for groups or dilation.
    """
    dilations = (*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ()))
    if set(dilations) - {1} or options.get("feature_group_count", 1) != 1:
        raise ValueError("this convolution takes neither dilation nor groups of features")

    pads = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    by_tiles = winograd.pays(x, kernel, strides, pads, options.get("precision"))

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, pads, **options)

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if not by_tiles:
            return plain(x, kernel)
        return jax.lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=plain)

    def by_xla(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(plain, x, kernel)[1](g)

    # A kernel's gradient is a sum over all devices' images. Those of all layers are exchanged at
    # once, unless branches compute them; and the sum by tiles is of four times as many numbers.
    alone = jax.device_count() == 1

    def on_cpu(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        if alone:
            return apart(gradients, x, kernel, g, by=kernel)
        return gradients(x, kernel, g)

    def gradients(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not by_tiles:
            of_x = _input_gradient_on_cpu(x, kernel, g, strides, pads)
            return of_x, _kernel_gradient_on_cpu(x, kernel, g, strides, pads)
        slopes = winograd.slopes(g, kernel)
        of_kernel = (
            winograd.kernel_gradient(x, kernel, slopes)
            if alone
            else _kernel_gradient_on_cpu(x, kernel, g, strides, pads)
        )
        return winograd.input_gradient(slopes, kernel, x.shape), of_kernel

    def backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.platform_dependent(*saved, g, cpu=on_cpu, default=by_xla)

    convolve = jax.custom_vjp(forward)
    convolve.defvjp(lambda x, kernel: (forward(x, kernel), (x, kernel)), backward)
    return convolve(x, kernel)


# Gradients as convolutions of NHWC by HWIO: XLA has no other fast ones on a CPU. It turns others
# into these itself, but not inside a loop, as of `train.gradient_accumulation_steps`, where a
# kernel's gradient would take thirty times as long.


def _input_gradient_on_cpu(
    x: jax.Array, kernel: jax.Array, g: jax.Array, strides: Any, padding: Any
) -> jax.Array:
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    pads = []
    for axis, ((before, _), stride) in enumerate(zip(padding, strides, strict=True)):
        side, spread = flipped.shape[axis], (g.shape[1 + axis] - 1) * stride + 1
        pads.append((side - 1 - before, x.shape[1 + axis] + before - spread))
    return _nhwc_by_hwio(g, flipped, pads, lhs_dilation=strides)


def _kernel_gradient_on_cpu(
    x: jax.Array, kernel: jax.Array, g: jax.Array, strides: Any, padding: Any
) -> jax.Array:
    pads = []
    for axis, ((before, _), stride) in enumerate(zip(padding, strides, strict=True)):
        side, spread = kernel.shape[axis], (g.shape[1 + axis] - 1) * stride + 1
        pads.append((before, side - 1 + spread - x.shape[1 + axis] - before))
    turned = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
    of_kernel = _nhwc_by_hwio(*turned, pads, rhs_dilation=strides)
    return of_kernel.transpose(1, 2, 0, 3)


def _nhwc_by_hwio(x: jax.Array, kernel: jax.Array, pads: Any, **dilation: Any) -> jax.Array:
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=names, **dilation
    )


def _identity(x: jax.Array) -> jax.Array:
    return x


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


@jax.custom_jvp
def swish(x: jax.Array) -> jax.Array:
    """Returns x / (1 + e⁻ˣ), as Ho et al.'s U-Net has after each normalisation."""
    return x / (1.0 + jnp.exp(-x))


@swish.defjvp
def _swish_slope(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """By a tanh: XLA would keep the exponential, as large as x, for a slope that is made of it."""
    (x,), (dx,) = primals, tangents
    s = 0.5 * jnp.tanh(0.5 * x) + 0.5
    return swish(x), dx * (s * (1.0 + x * (1.0 - s)))


class GroupNorm(nn.Module):
    """Normalises each example over its pixels and groups of channels (Wu & He 2018, eq. 7).

    x is [B, ..., C]; the result has its shape, in `dtype`. `groups` is the most there may be
    (see `group_count`). Statistics are float32 whatever the dtype. The result is passed by
    `activation`, a function of each entry alone: in one pass with it, and one fewer backward, where
    it is computed anew rather than kept.
    """

    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = "float32"
    activation: Activation | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B *pixels C"]) -> Float[Array, "B *pixels C"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        groups = group_count(channels, self.groups)
        how = _How(groups, self.epsilon, jnp.dtype(self.dtype), self.activation or _identity)
        return _normalize(x, scale, bias, how)


class _How(NamedTuple):
    """What is fixed of a normalisation when it is compiled."""

    groups: int
    epsilon: float
    dtype: jnp.dtype
    activation: Activation


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, how: _How) -> jax.Array:
    return _normalize_forward(x, scale, bias, how)[0]


def _normalize_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, how: _How
) -> tuple[jax.Array, Any]:
    mean, variance = _group_moments(x.astype(jnp.float32), how.groups)
    # Else a CPU takes the root again for each pixel.
    mean, rstd = apart_on_cpu((mean, jax.lax.rsqrt(variance + how.epsilon)))
    y = how.activation((x.astype(jnp.float32) - mean) * (rstd * scale) + bias)
    return y.astype(how.dtype), (x, mean, rstd, scale, bias)


def _normalize_backward(
    how: _How, saved: Any, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Two passes over x and g: one for the sums of each channel, one for the gradient of x.

    With h = (x - mean) · rstd, dx = rstd · (scale · g - E[scale · g] - h · E[scale · g · h]), the
    means being those of a group and g that of the activation's input; automatic differentiation
    takes more passes, and keeps more.
    """
    kept, mean, rstd, scale, bias = saved
    x = kept.astype(jnp.float32)
    slopes = jax.vjp(how.activation, (x - mean) * (rstd * scale) + bias)[1]
    (g,) = slopes(g.astype(jnp.float32))
    g = apart_on_cpu(g)
    pixels, all_but_channels = tuple(range(1, x.ndim - 1)), tuple(range(x.ndim - 1))
    of_g = g.sum(pixels, keepdims=True)
    # The mean is taken off the sum: off each x, a CPU would write all of them once more.
    of_gh = ((g * x).sum(pixels, keepdims=True) - mean * of_g) * rstd
    count = math.prod(x.shape[1:]) // how.groups

    def group_mean(sums: jax.Array) -> jax.Array:
        sums = rearrange(sums * scale, "... (g c) -> ... g c", g=how.groups)
        means = sums.sum(-1, keepdims=True) / count
        return jnp.broadcast_to(means, sums.shape).reshape(mean.shape)

    offset, slope = apart_on_cpu((rstd * group_mean(of_g), rstd**2 * group_mean(of_gh)))
    dx = g * (rstd * scale) - (x - mean) * slope - offset
    return dx.astype(kept.dtype), of_gh.sum(all_but_channels), of_g.sum(all_but_channels)


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _group_moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and variance of each channel's group, [B, 1, ..., C], in one pass over x.

    Sums run over pixels alone, channels innermost and contiguous, and are combined by group
    afterwards: grouping x itself splits the innermost axis, which is 7 times slower on a CPU.
    """
    pixels = tuple(range(1, x.ndim - 1))
    # E[x²] - E[x]² cancels where the mean is large: shift by the mean of the channel's first row.
    # XLA writes a sum down; one pixel's value it would compute anew for each of the others.
    shift = (x[:, :1] if pixels else x).mean(pixels, keepdims=True)
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
        h = attend(query, key, value)
        h = rearrange(h, "b (y x) n c -> b y x (n c)", y=height, x=width)
        return x + dense(channels, dtype=self.dtype, name="out", zero=True)(h)


@jax.custom_vjp
def attend(
    query: Float[Array, "B q n c"], key: Float[Array, "B k n c"], value: Float[Array, "B k n c"]
) -> Float[Array, "B q n c"]:
    """Returns the values' mean for each query and head, by the softmax of its products with keys.

    Products are divided by √c. They and the softmax are float32, and meet the values in the values'
    dtype, which is also that of the result. Source: Vaswani et al. 2017, equation 1.
    """
    return _attend_forward(query, key, value)[0]


def _attend_forward(
    query: jax.Array, key: jax.Array, value: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Divides by the weights' sum where there are fewest numbers: at the end."""
    query, key, value = map(_heads_first, (query, key, value))
    products = _product_of_heads(query, key, over=(3, 3))
    most = products.max(-1, keepdims=True)
    weight = jnp.exp((products - most) * query.shape[-1] ** -0.5)
    total = weight.sum(-1, keepdims=True)
    weight = weight.astype(value.dtype)
    result = (_product_of_heads(weight, value, over=(3, 2)) / total).astype(value.dtype)
    return _heads_first(result), (query, key, value, weight, total, result)


def _attend_backward(
    saved: tuple[jax.Array, ...], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Takes the sum over keys in a softmax's gradient from the result (Dao et al. 2022, app. B.2).

    With P the softmax, Σ_k P_k (g · value_k) is g · result: a sum of c numbers, not of all keys.
    """
    query, key, value, weight, total, result = saved
    dtype, scale = value.dtype, query.shape[-1] ** -0.5
    g = _heads_first(g).astype(jnp.float32) / total
    common = (g * result.astype(jnp.float32)).sum(-1, keepdims=True)
    g = g.astype(dtype)
    of_value = _product_of_heads(weight, g, over=(2, 2))
    of_weight = _product_of_heads(g, value, over=(3, 3)) - common
    of_products = (weight.astype(jnp.float32) * of_weight).astype(dtype)
    of_query = _product_of_heads(of_products, key, over=(3, 2)) * scale
    of_key = _product_of_heads(of_products, query, over=(2, 2)) * scale
    of_query, of_key, of_value = (
        _heads_first(each.astype(dtype)) for each in (of_query, of_key, of_value)
    )
    return of_query, of_key, of_value


attend.defvjp(_attend_forward, _attend_backward)


def _heads_first(x: jax.Array) -> jax.Array:
    """Turns pixels of heads into heads of pixels, `[B, p, n, c]` into `[B, n, p, c]`, and back."""
    return x.swapaxes(1, 2)


def _product_of_heads(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """Returns the float32 product of each head's matrices over an axis of a and one of b.

    In this very order: an einsum may turn a product around, and XLA then transposes its sides.
    """
    axes = (((over[0],), (over[1],)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


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
