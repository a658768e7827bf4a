"""Group normalisation, with an activation after it."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.ops.cpu.barriers import cpu_fusion_barrier
from ddpm_jax.ops.dispatch import dispatch

Activation = Callable[[jax.Array], jax.Array]


def _identity(x: Any) -> Any:
    return x


def reference(
    x: Float[Array, "B *pixels C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"],
    *,
    groups: int,
    epsilon: float,
    dtype: DTypeLike,
    activation: Activation = _identity,
    joints: tuple[int, ...] = (),
) -> Float[Array, "B *pixels C"]:
    """Returns activation(scale (x - mean) / √(variance + epsilon) + bias), in `dtype`.

    Mean and variance are those of each example over all its pixels and the channels of a group.
    A group has consecutive channels. `activation` is element-wise. Everything is float32 until the
    result is cast. `joints` are the channels where x was concatenated, for forms that sum its parts
    one by one. Source: Wu & He 2018, equation 7.
    """
    del joints
    grouped = rearrange(x.astype(jnp.float32), "... (g c) -> ... g c", g=groups)
    axes = (*range(1, x.ndim - 1), grouped.ndim - 1)
    centred = grouped - grouped.mean(axes, keepdims=True)
    variance = jnp.square(centred).mean(axes, keepdims=True)
    normalized = rearrange(
        centred * jax.lax.rsqrt(variance + epsilon), "... g c -> ... (g c)", g=groups
    )
    return activation(normalized * scale + bias).astype(dtype)


def few_passes(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    groups: int,
    epsilon: float,
    dtype: DTypeLike,
    activation: Activation = _identity,
    joints: tuple[int, ...] = (),
) -> jax.Array:
    """Group normalisation that passes over x once forward and twice backward.

    It keeps x and the statistics for its gradient, and computes the rest again.
    """

    def forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, Any]:
        mean, variance = _group_moments(x, groups, joints)
        mean, rstd = cpu_fusion_barrier((mean, jax.lax.rsqrt(variance + epsilon)))
        y = activation((x.astype(jnp.float32) - mean) * (rstd * scale) + bias)
        return y.astype(dtype), (x, mean, rstd, scale, bias)

    normalize = jax.custom_vjp(lambda x, scale, bias: forward(x, scale, bias)[0])
    normalize.defvjp(forward, partial(_backward, groups=groups, activation=activation))
    return normalize(x, scale, bias)


def _backward(
    saved: Any,
    g: jax.Array,
    *,
    groups: int,
    activation: Activation,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Makes two passes over x and g: one for the sums of each channel, one for the gradient of x.

    With h = (x - mean) rstd and g the gradient with respect to the activation's input,
    dx = rstd (scale g - E[scale g] - h E[scale g h]), where E is the mean over a group.
    """
    kept, mean, rstd, scale, bias = saved
    x = kept.astype(jnp.float32)
    pull = jax.vjp(activation, (x - mean) * (rstd * scale) + bias)[1]
    (g,) = pull(g.astype(jnp.float32))
    g = cpu_fusion_barrier(g)
    pixels, all_but_channels = tuple(range(1, x.ndim - 1)), tuple(range(x.ndim - 1))
    sum_g = g.sum(pixels, keepdims=True)
    # The mean is subtracted from the sums. Subtracting it from each x would write all of x again.
    sum_gh = ((g * x).sum(pixels, keepdims=True) - mean * sum_g) * rstd
    count = math.prod(x.shape[1:-1])
    of_g, of_gh = (_group_mean(sums * scale, groups) / count for sums in (sum_g, sum_gh))
    offset, slope = cpu_fusion_barrier((rstd * of_g, rstd**2 * of_gh))
    dx = g * (rstd * scale) - (x - mean) * slope - offset
    return dx.astype(kept.dtype), sum_gh.sum(all_but_channels), sum_g.sum(all_but_channels)


def _group_moments(
    x: jax.Array, groups: int, joints: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and variance of each channel's group, [B, 1, ..., C], in one pass over x.

    Sums run over the pixels of each channel, and are combined by group afterwards: grouping x
    itself splits the innermost axis, which is 7 times slower on a CPU. Those of a part of x can be
    taken where the part is computed; XLA doesn't look through the concatenation.
    """
    each = [_channel_moments(part) for part in jnp.split(x, joints, axis=-1)]
    means, variances = (jnp.concatenate(parts, axis=-1) for parts in zip(*each, strict=True))
    mean = _group_mean(means, groups)
    variance = _group_mean(variances + jnp.square(means - mean), groups)
    return mean, jnp.maximum(variance, 0.0)


def _group_mean(values: jax.Array, groups: int) -> jax.Array:
    """Returns for each channel of `[..., C]` the mean of its group."""
    forms = {"tpu": _mean_by_product, "default": _mean_by_sums}
    bound = {name: partial(form, groups=groups) for name, form in forms.items()}
    return jax.lax.platform_dependent(values, **bound)


def _mean_by_sums(values: jax.Array, *, groups: int) -> jax.Array:
    grouped = rearrange(values, "... (g c) -> ... g c", g=groups)
    means = jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape)
    return rearrange(means, "... g c -> ... (g c)")


def _mean_by_product(values: jax.Array, *, groups: int) -> jax.Array:
    # A TPU splits its innermost axis slowly. What is around a product is fused with it.
    each = values.shape[-1] // groups
    shares = jnp.kron(jnp.eye(groups), jnp.full((each, each), 1 / each))
    return jnp.matmul(values, shares, precision="highest")


def _channel_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and variance of each channel over its pixels, [B, 1, ..., C], float32."""
    pixels = tuple(range(1, x.ndim - 1))
    wide = x.astype(jnp.float32)
    # E[x²] - E[x]² cancels where the mean is large, so float32 is shifted by the mean of a
    # channel's first row: XLA would compute one pixel's value again for each other pixel. In half
    # precision x itself was rounded as much, and without a shift a TPU sums it while it is written.
    shift: Any = 0.0
    if x.dtype.itemsize > 2:
        shift = (wide[:, :1] if pixels else wide).mean(pixels, keepdims=True)
    shifted = wide - shift
    first = shifted.mean(pixels, keepdims=True)
    second = jnp.square(shifted).mean(pixels, keepdims=True)
    return first + shift, second - jnp.square(first)


group_norm = dispatch(reference, default=few_passes)
