"""What XLA on a CPU would compute again and again, unless told to compute it once."""

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


def written(arrays: Any, kernel: jax.Array) -> Any:
    """Returns arrays that XLA then writes to memory on a CPU rather than compute for each use.

    A barrier would not do: XLA drops it there before it decides what to compute together. What a
    branch returns it always writes. The other branch is right too: of a kernel that is not a number
    nothing that is one comes. The kernel decides and not an image, whose first entry lies on one
    device.
    """
    broken = jnp.isnan(kernel[(0,) * kernel.ndim])

    def nothing(arrays: Any) -> Any:
        return jax.tree.map(lambda array: jnp.full_like(array, jnp.nan), arrays)

    return jax.lax.cond(broken, nothing, lambda arrays: arrays, arrays)
