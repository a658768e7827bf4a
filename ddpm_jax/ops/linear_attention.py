"""Attention whose cost is linear in the pixels: each pixel reads from one summary of its image."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ddpm_jax.ops.cpu.linear_attention import in_groups
from ddpm_jax.ops.dispatch import dispatch


class Linear(NamedTuple):
    """The weights of a linear map."""

    kernel: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None


class Weights(NamedTuple):
    """The four maps of linear attention; query, key and value give the heads one after another."""

    query: Linear
    key: Linear
    value: Linear
    out: Linear


def reference(x: Float[Array, "B p C"], weights: Weights, *, heads: int) -> Float[Array, "B p C"]:
    """Returns out(query · (keyᵀ · value) / √c) of each head, in the dtype of x.

    The softmax of a query runs over its c features, that of a key over the pixels p: a head's
    summary keyᵀ · value is [c, c]. Softmaxes and sums are float32. Source: Shen et al. 2018,
    section 3.
    """

    def heads_of(weights: Linear) -> jax.Array:
        features = _product("bpc,ck->bpk", x, weights.kernel, dtype=x.dtype)
        return rearrange(_plus(features, weights.bias), "b p (n k) -> b p n k", n=heads)

    query = jax.nn.softmax(heads_of(weights.query), axis=3)
    key = jax.nn.softmax(heads_of(weights.key), axis=1)
    summary = _product("bpnk,bpnv->bnkv", key, heads_of(weights.value), dtype=x.dtype)
    summary *= query.shape[-1] ** -0.5
    h = rearrange(
        _product("bpnk,bnkv->bpnv", query, summary, dtype=x.dtype), "b p n v -> b p (n v)"
    )
    h = _product("bpk,kc->bpc", h, weights.out.kernel, dtype=x.dtype)
    return _plus(h, weights.out.bias).astype(x.dtype)


def by_small_summary(x: jax.Array, weights: Weights, *, heads: int) -> jax.Array:
    """Linear attention with its linear maps moved from the pixels to the summary, which is small.

    With w the softmax over pixels, Σ_p w_p value(x_p) = value(Σ_p w_p x_p). Queries are laid out as
    [pixel, feature] and keys as [feature, pixel], because a CPU multiplies those faster.
    """
    query = _product("bpc,ck->bpk", x, weights.query.kernel, dtype=x.dtype)
    query = _plus(query, weights.query.bias)
    query = jax.nn.softmax(rearrange(query, "b p (n k) -> b p n k", n=heads))
    # The bias of the keys is the same for all pixels, and the softmax doesn't see it. We repeat the
    # kernel for each image, or XLA would transpose the product afterwards.
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
    # The product has the dtype of its inputs, and is cast afterwards: on a CPU, XLA lacks some
    # products of half precision with float32 results.
    return jnp.einsum(formula, *(array.astype(dtype) for array in arrays)).astype(jnp.float32)


linear_attention = dispatch(
    reference, default=by_small_summary, cpu=partial(in_groups, attend=by_small_summary)
)
