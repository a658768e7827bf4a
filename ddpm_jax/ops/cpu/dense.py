"""Multiplication of the last axis by a matrix, with gradients that are fast on a CPU."""

import jax
import jax.numpy as jnp

# Kernels with at most this many columns have gradients of their own.
_NARROW = 4


def cpu_dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x @ kernel`, computed with all axes of x but the last merged into one.

    The gradient of the kernel is then a plain product of matrices. Over several axes, XLA
    transposes both sides first, which takes longer than the product.
    """
    product = narrow_product if kernel.shape[-1] <= _NARROW else _product
    rows = product(x.reshape(-1, x.shape[-1]), kernel)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x, kernel, (((1,), (0,)), ((), ())))


@jax.custom_vjp
def narrow_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x @ kernel` for a kernel of few columns, such as the coordinates of a point.

    Its gradients take few operations, but XLA's matrix library is slow for such narrow matrices.
    """
    return _product(x, kernel)


def _narrow_backward(
    saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    x_gradient = sum(g[:, j : j + 1] * kernel[:, j] for j in range(g.shape[-1]))
    kernel_gradient = _product(jax.lax.optimization_barrier(g.T), x).T
    return jnp.asarray(x_gradient), kernel_gradient


narrow_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _narrow_backward)
