"""Randomness as a function of (seed, stream, step): no key is ever stored.

Every kind of draw has its own stream. So turning one on or off (dropout, flips) does not change the
others, and step n draws the same numbers whether or not the run was interrupted.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.runtime.switches import pinned
from ddpm_jax.typing import Keys

# Named here, so that JAX's global default does not decide what a seed means.
_IMPLEMENTATION = "threefry2x32"

# The numbers determine every run's results: add rows, but never change one.
STREAMS = {
    "init": 0,
    "timestep": 1,
    "noise": 2,
    "dropout": 3,
    "labels": 4,
    "flip": 5,
    "sample": 6,
    "validation": 7,
    "likelihood": 8,
    "condition": 9,
}


@pinned()
def stream_key(seed: int | jax.Array, stream: str, step: int | jax.Array = 0) -> jax.Array:
    """Returns the key of one stream at one step; seed and step may be traced."""
    return jax.random.fold_in(jax.random.fold_in(_root(seed), STREAMS[stream]), step)


def _root(seed: int | jax.Array) -> jax.Array:
    """Returns `jax.random.key(seed)` of a 32-bit seed, without JAX_RANDOM_SEED_OFFSET."""
    words = jnp.stack([jnp.zeros((), jnp.uint32), jnp.asarray(seed, jnp.uint32)])
    return jax.random.wrap_key_data(words, impl=_IMPLEMENTATION)


@pinned()
def sample_keys(
    seed: int | jax.Array, indices: jax.Array | np.ndarray, stream: str = "sample"
) -> Keys:
    """Returns a key `[B]` per sample. It follows from the seed and the index, never from B."""
    root = stream_key(seed, stream)
    return jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.asarray(indices, jnp.uint32))
