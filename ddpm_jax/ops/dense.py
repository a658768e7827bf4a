"""Multiplication of the last axis by a matrix."""

import jax
from jaxtyping import Array, Float

from ddpm_jax.ops.cpu.dense import cpu_dense
from ddpm_jax.ops.dispatch import dispatch


def reference(x: Float[Array, "*rows C"], kernel: Float[Array, "C K"]) -> Float[Array, "*rows K"]:
    """Returns y[…, k] = Σ_c x[…, c] kernel[c, k]: for an image, a 1x1 convolution."""
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


dense = dispatch(reference, cpu=cpu_dense)
