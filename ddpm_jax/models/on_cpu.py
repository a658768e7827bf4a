"""What XLA on a CPU would compute again and again, unless told to compute it once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def apart_on_cpu(arrays: Any) -> Any:
    """Returns the arrays, whose making XLA on a CPU doesn't mix with their use when it simplifies.

    What is small is then made once, not for each of a picture's pixels.
    """
    return jax.lax.platform_dependent(
        arrays, cpu=jax.lax.optimization_barrier, default=lambda arrays: arrays
    )


def apart(function: Callable[..., Any], *arrays: jax.Array, by: jax.Array) -> Any:
    """Returns `function(*arrays)`; on a CPU XLA writes to memory what goes in and what comes out.

    It is a branch: what is computed in one, XLA neither mixes with what is computed outside nor
    computes again for each use. A barrier would not do: XLA drops it on a CPU before it decides
    what to compute together. The other branch is right too: of a kernel, `by`, that is not a number
    nothing that is one comes. The kernel decides and not an image, whose first entry lies on one
    device.
    """
    broken = jnp.isnan(by[(0,) * by.ndim])

    def nothing(*arrays: jax.Array) -> Any:
        shapes = jax.eval_shape(function, *arrays)
        return jax.tree.map(lambda it: jnp.full(it.shape, jnp.nan, it.dtype), shapes)

    return jax.lax.cond(broken, nothing, function, *arrays)
