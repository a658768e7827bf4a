"""How to keep XLA on a CPU from computing the same thing again for each of its uses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def cpu_fusion_barrier(arrays: Any) -> Any:
    """Returns the arrays, which XLA on a CPU then computes once, and not for each use in a fusion.

    It is for small arrays that meet each pixel of an image. Other platforms see nothing of it.
    """
    return jax.lax.platform_dependent(
        arrays, cpu=jax.lax.optimization_barrier, default=lambda arrays: arrays
    )


def fusion_barrier(function: Callable[..., Any], *arrays: jax.Array, by: jax.Array) -> Any:
    """Returns `function(*arrays)`, and makes XLA write its inputs and outputs to memory.

    It is a conditional: XLA doesn't fuse what is in a branch with what is outside.
    `jax.lax.optimization_barrier` is not enough, because XLA on a CPU drops it before it fuses.
    The other branch is right too: if the kernel `by` begins with NaN, all results are NaN. We ask
    the kernel and not an image, whose first entry lies on one device.
    """
    broken = jnp.isnan(by[(0,) * by.ndim])

    def nothing(*arrays: jax.Array) -> Any:
        shapes = jax.eval_shape(function, *arrays)
        return jax.tree.map(lambda it: jnp.full(it.shape, jnp.nan, it.dtype), shapes)

    return jax.lax.cond(broken, nothing, function, *arrays)
