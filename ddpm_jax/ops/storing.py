"""Arrays that are computed once, however many operations read them."""

import jax

from ddpm_jax.ops.dispatch import dispatch


def reference(x: jax.Array) -> jax.Array:
    """Returns x, of any shape and dtype."""
    return x


def by_barrier(x: jax.Array) -> jax.Array:
    """Makes XLA write x: it would compute an array again in each fusion that reads it."""
    return jax.lax.optimization_barrier(x)


stored = dispatch(reference, default=by_barrier)
