"""Attention whose cost is linear in the pixels: each reads from one summary of its image."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.models.layers import GroupNorm, kernel_init


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
        channels, inner = x.shape[-1], self.heads * self.head_channels
        h = GroupNorm(1, dtype=self.dtype, name="norm")(x)
        weights = Weights(
            *(_Linear(inner, self.bias, name=name)(channels) for name in ("query", "key", "value")),
            out=_Linear(channels, name="out")(inner),
        )
        pixels = rearrange(h, "b y x c -> b (y x) c")
        h = jnp.reshape(read_summary(pixels, weights, self.heads), x.shape)
        # An average over all pixels is small: a smaller epsilon would make too much of it.
        return x + GroupNorm(1, epsilon=1e-5, dtype=self.dtype, name="norm_out")(h)


class Linear(NamedTuple):
    """The weights of a linear map."""

    kernel: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None


class Weights(NamedTuple):
    """What linear attention is made of; query, key and value give all heads' features, in turn."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear


class _Linear(nn.Module):
    """A dense layer's weights, without its product."""

    features: int
    bias: bool = True

    @nn.compact
    def __call__(self, inputs: int) -> Linear:
        kernel = self.param("kernel", kernel_init, (inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.bias else None
        return Linear(kernel, bias)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def read_summary(x: Float[Array, "B p C"], weights: Weights, heads: int) -> Float[Array, "B p C"]:
    """Returns what each pixel's query reads from its image's summary, in the dtype of x.

    Its features are computed once more in the gradient: kept, they would be several times as much
    as x. On a CPU a few images are worked on at a time, so that all of theirs stays in its cache.
    """
    whole = partial(_read, heads=heads)
    return jax.lax.platform_dependent(x, weights, cpu=partial(_grouped, heads=heads), default=whole)


def _forward(x: jax.Array, weights: Weights, heads: int) -> tuple[jax.Array, Any]:
    return read_summary(x, weights, heads), (x, weights)


def _backward(heads: int, saved: tuple[jax.Array, Weights], g: jax.Array) -> Any:
    whole, grouped = partial(_gradient, heads=heads), partial(_grouped_gradient, heads=heads)
    return jax.lax.platform_dependent(*saved, g, cpu=grouped, default=whole)


read_summary.defvjp(_forward, _backward)


def _read(x: jax.Array, weights: Weights, heads: int) -> jax.Array:
    """A query's features come after its pixel, a key's before: so their products are fast on a CPU.

    Values and the map out are linear: they are taken of the summary, which is small, and not of the
    pixels. With w the softmax over pixels, Σ_p w_p value(x_p) = value(Σ_p w_p x_p).
    """
    query = _product("bpc,ck->bpk", x, weights.query.kernel, dtype=x.dtype)
    query = _plus(query, weights.query.bias)
    query = nn.softmax(rearrange(query, "b p (n k) -> b p n k", n=heads))
    # Without the keys' bias, which is the same for all pixels. A kernel an image: else XLA turns
    # the product around afterwards.
    kernel = jnp.broadcast_to(weights.key.kernel.T, (len(x), *weights.key.kernel.T.shape))
    key = _product("bkc,bpc->bkp", kernel, x, dtype=x.dtype)
    key = jnp.exp(key - jax.lax.stop_gradient(key.max(2, keepdims=True)))
    summary = _product("bkp,bpc->bkc", key, x, dtype=x.dtype)
    summary = rearrange(summary / key.sum(2, keepdims=True), "b (n k) c -> b n k c", n=heads)
    value = rearrange(weights.value.kernel, "c (n v) -> n c v", n=heads)
    summary = _product("bnkc,ncv->bnkv", summary, value, dtype=x.dtype)
    if weights.value.bias is not None:
        summary += rearrange(weights.value.bias, "(n v) -> n 1 v", n=heads)
    out = rearrange(weights.out.kernel, "(n v) c -> n v c", n=heads)
    summary = _product("bnkv,nvc->bnkc", summary, out, dtype=x.dtype)
    summary = rearrange(summary * query.shape[-1] ** -0.5, "b n k c -> b (n k) c")
    query = rearrange(query, "b p n k -> b p (n k)")
    read = _product("bpk,bkc->bpc", query, summary, dtype=x.dtype)
    return _plus(read, weights.out.bias).astype(x.dtype)


def _plus(x: jax.Array, bias: jax.Array | None) -> jax.Array:
    return x if bias is None else x + bias


def _product(formula: str, *arrays: jax.Array, dtype: Any) -> jax.Array:
    # With results as narrow: on a CPU, XLA has not all products of narrow numbers with wide ones.
    return jnp.einsum(formula, *(it.astype(dtype) for it in arrays)).astype(jnp.float32)


def _gradient(
    x: jax.Array, weights: Weights, g: jax.Array, heads: int
) -> tuple[jax.Array, Weights]:
    return jax.vjp(partial(_read, heads=heads), x, weights)[1](g)


def _grouped(x: jax.Array, weights: Weights, heads: int) -> jax.Array:
    images = _groups(x, weights)
    return _whole(jax.lax.map(lambda x: _read(x, weights, heads), images))


def _grouped_gradient(
    x: jax.Array, weights: Weights, g: jax.Array, heads: int
) -> tuple[jax.Array, Weights]:
    def add(total: Weights, group: tuple[jax.Array, jax.Array]) -> tuple[Weights, jax.Array]:
        of_x, of_weights = _gradient(group[0], weights, group[1], heads)
        return jax.tree.map(jnp.add, total, of_weights), of_x

    zero = jax.tree.map(jnp.zeros_like, weights)
    total, of_x = jax.lax.scan(add, zero, (_groups(x, weights), _groups(g, weights)))
    return _whole(of_x), total


# The queries, say, of a group of images have at most so many numbers, two megabytes.
_GROUP = 2**19


def _groups(x: jax.Array, weights: Weights) -> jax.Array:
    """Returns images `[B, p, C]` as `[B / n, n, p, C]`, with the largest n that divides B.

    A group's images lie far apart, so that those which are shared out among devices stay on theirs.
    """
    each = x.shape[1] * weights.query.kernel.shape[1]
    most = max(1, min(len(x), _GROUP // each))
    size = next(n for n in range(most, 0, -1) if len(x) % n == 0)
    return x.reshape(size, -1, *x.shape[1:]).swapaxes(0, 1)


def _whole(groups: jax.Array) -> jax.Array:
    return groups.swapaxes(0, 1).reshape(-1, *groups.shape[2:])
