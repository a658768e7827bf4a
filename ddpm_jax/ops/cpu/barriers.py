"""Barriers against fusion: XLA on a CPU would compute the same value again for each of its uses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def cpu_fusion_barrier(arrays: Any) -> Any:
    """Returns the arrays, and makes XLA on a CPU compute them once instead of in each fusion.

    Use it for small arrays that are combined with each pixel of an image. It does nothing on other
    platforms.
    """
    return jax.lax.platform_dependent(
        arrays, cpu=jax.lax.optimization_barrier, default=lambda arrays: arrays
    )


def fusion_barrier(function: Callable[..., Any], *arrays: jax.Array, by: jax.Array) -> Any:
    """Returns `function(*arrays)`, and makes XLA write its inputs and outputs to memory.

    It is a conditional, because XLA doesn't fuse operations of a branch with those outside it.
    `jax.lax.optimization_barrier` is not enough: XLA on a CPU removes it before fusion. The
    condition is whether the kernel `by` begins with NaN. Then all results are NaN, so the other
    branch is right too. An image would not do, because its first entry is on one device only.
    """
    broken = jnp.isnan(by[(0,) * by.ndim])

    def nothing(*arrays: jax.Array) -> Any:
        shapes = jax.eval_shape(function, *arrays)
        return jax.tree.map(lambda it: jnp.full(it.shape, jnp.nan, it.dtype), shapes)

    return jax.lax.cond(broken, nothing, function, *arrays)
