"""Linear attention of a few images at a time, so that their features stay in a CPU's cache."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

# The largest size of the queries of a group of images: two megabytes.
_GROUP = 2**19


def in_groups(
    x: jax.Array, weights: Any, *, heads: int, attend: Callable[..., jax.Array]
) -> jax.Array:
    """Returns `attend(x, weights, heads=heads)`, computed group by group; so is its gradient.

    x is [B, p, C]; `weights` are those of the operation.
    """
    attend = partial(attend, heads=heads)

    def forward(x: jax.Array, weights: Any) -> jax.Array:
        return _merge(jax.lax.map(lambda group: attend(group, weights), _split(x, weights)))

    def backward(saved: tuple[jax.Array, Any], g: jax.Array) -> tuple[jax.Array, Any]:
        x, weights = saved

        def add(total: Any, group: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
            x_gradient, gradients = jax.vjp(attend, group[0], weights)[1](group[1])
            return jax.tree.map(jnp.add, total, gradients), x_gradient

        zero = jax.tree.map(jnp.zeros_like, weights)
        total, x_gradient = jax.lax.scan(add, zero, (_split(x, weights), _split(g, weights)))
        return _merge(x_gradient), total

    grouped = jax.custom_vjp(forward)
    grouped.defvjp(lambda x, weights: (forward(x, weights), (x, weights)), backward)
    return grouped(x, weights)


def _split(x: jax.Array, weights: Any) -> jax.Array:
    """Returns images `[B, p, C]` as `[B / n, n, p, C]`, with the largest n that divides B.

    The images of a group are evenly spaced over the batch, so each device has some of every group.
    """
    each = x.shape[1] * weights.query.kernel.shape[1]
    most = max(1, min(len(x), _GROUP // each))
    size = next(n for n in range(most, 0, -1) if len(x) % n == 0)
    return x.reshape(size, -1, *x.shape[1:]).swapaxes(0, 1)


def _merge(groups: jax.Array) -> jax.Array:
    return groups.swapaxes(0, 1).reshape(-1, *groups.shape[2:])
