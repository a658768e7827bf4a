"""Attention of each query to all keys."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddpm_jax.ops.dispatch import dispatch

QueryArray = Float[Array, "B q n c"]
KeyArray = Float[Array, "B k n c"]


def reference(query: QueryArray, key: KeyArray, value: KeyArray) -> QueryArray:
    """Returns softmax(query · keyᵀ / √c) · value for each head n, in the dtype of value.

    The products and the softmax are float32; the softmax is rounded to the dtype of value before
    it multiplies them. Source: Vaswani et al. 2017, equation 1.
    """
    wide = {"preferred_element_type": jnp.float32}
    products = jnp.einsum("bqnc,bknc->bnqk", query, key, **wide) * query.shape[-1] ** -0.5
    weight = jax.nn.softmax(products).astype(value.dtype)
    return jnp.einsum("bnqk,bknc->bqnc", weight, value, **wide).astype(value.dtype)


@jax.custom_vjp
def short_gradient(query: QueryArray, key: KeyArray, value: KeyArray) -> QueryArray:
    """Attention whose gradient passes over the products of queries and keys fewer times."""
    return _forward(query, key, value)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Divides the result, and not the weights, by the sum of the weights: it is smaller."""
    query, key, value = map(_swap_pixels_and_heads, (query, key, value))
    products = _product_of_heads(query, key, over=(3, 3))
    most = products.max(-1, keepdims=True)
    weight = jnp.exp((products - most) * query.shape[-1] ** -0.5)
    total = weight.sum(-1, keepdims=True)
    weight = weight.astype(value.dtype)
    result = (_product_of_heads(weight, value, over=(3, 2)) / total).astype(value.dtype)
    return _swap_pixels_and_heads(result), (query, key, value, weight, total, result)


def _backward(saved: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the sum over keys in the gradient of the softmax from the result.

    With P the softmax, Σ_k P_k (g · value_k) = g · result. So the sum is over c features and not
    over all keys (Dao et al. 2022, appendix B.2).
    """
    query, key, value, weight, total, result = saved
    dtype, scale = value.dtype, query.shape[-1] ** -0.5
    g = _swap_pixels_and_heads(g).astype(jnp.float32) / total
    common = (g * result.astype(jnp.float32)).sum(-1, keepdims=True)
    g = g.astype(dtype)
    value_gradient = _product_of_heads(weight, g, over=(2, 2))
    weight_gradient = _product_of_heads(g, value, over=(3, 3)) - common
    products_gradient = (weight.astype(jnp.float32) * weight_gradient).astype(dtype)
    query_gradient = _product_of_heads(products_gradient, key, over=(3, 2)) * scale
    key_gradient = _product_of_heads(products_gradient, query, over=(2, 2)) * scale
    query_gradient, key_gradient, value_gradient = (
        _swap_pixels_and_heads(gradient.astype(dtype))
        for gradient in (query_gradient, key_gradient, value_gradient)
    )
    return query_gradient, key_gradient, value_gradient


short_gradient.defvjp(_forward, _backward)


def _swap_pixels_and_heads(x: jax.Array) -> jax.Array:
    return x.swapaxes(1, 2)


def _product_of_heads(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """Returns the float32 product of the matrices of each head, over an axis of a and one of b.

    An einsum may swap the two sides, and then XLA transposes both.
    """
    axes = (((over[0],), (over[1],)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


attention = dispatch(reference, default=short_gradient)
