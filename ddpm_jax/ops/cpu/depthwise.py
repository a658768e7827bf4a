"""Convolution of each channel with its own kernel, as shifted multiply-adds.

XLA's grouped convolution takes ten times as long on a CPU, and its gradient longer still.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from einops import rearrange

from ddpm_jax.ops.cpu.barriers import fusion_barrier

# The number of bands of pixels that one sum adds. XLA would split a longer sum into parts.
_TOGETHER = 8
# The largest size of a band: the bands of a sum and their gradients then fit in a core's cache.
_BAND = 2**15


@jax.custom_vjp
def shifted_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the depthwise convolution, summed in float32; see `ops.depthwise`."""
    height, width = x.shape[1:3]
    shifts = list(itertools.product(*map(range, kernel.shape[:2])))

    def summed(framed: jax.Array, kernel: jax.Array) -> jax.Array:
        h = sum(framed[:, i : i + height, j : j + width] * kernel[i, j] for i, j in shifts)
        return jnp.asarray(h, x.dtype)

    # Without a barrier, XLA computes x again for each shift, and the sum again for each use. A
    # normalisation uses it twice.
    return fusion_barrier(summed, _framed(x, kernel), kernel, by=kernel)


def _framed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the images in float32, padded for all shifts of the kernel."""
    frame = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jnp.pad(x.astype(jnp.float32), ((0, 0), *frame, (0, 0)))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return shifted_convolution(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return shifted_convolution(g, kernel[::-1, ::-1]), _kernel_gradient(x, kernel, g)


shifted_convolution.defvjp(_forward, _backward)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    rows, columns = kernel.shape[:2]
    height = x.shape[1]
    framed, g_bands = _framed(x, kernel), g.astype(jnp.float32)
    count = min(height, -(-x[0].size // _BAND))
    tall = -(-height // count)
    count = -(-height // tall)
    rest = ((0, 0), (0, count * tall - height), (0, 0), (0, 0))
    framed, g_bands = jnp.pad(framed, rest), jnp.pad(g_bands, rest)
    bands = [framed[:, n * tall : (n + 1) * tall + rows - 1] for n in range(count)]
    framed = _in_groups(rearrange(jnp.stack(bands, 1), "b n y x c -> (b n) y x c"))
    g_bands = _in_groups(rearrange(g_bands, "b (n y) x c -> (b n) y x c", n=count))

    # XLA doesn't vectorize a sum over pixels whose channels come last. So we first add the bands of
    # a group to one, and then add its pixels: an eighth of the numbers. The loop over shifts makes
    # XLA write the first sum to memory; otherwise it would fuse both sums.
    def add(total: jax.Array, group: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        def shifted(n: jax.Array) -> jax.Array:
            start = (n // columns, n % columns, 0)
            pairs = zip(*group, strict=True)
            products = [jax.lax.dynamic_slice(x, start, g.shape) * g for x, g in pairs]
            return functools.reduce(jnp.add, products)

        return total + jax.lax.map(shifted, jnp.arange(rows * columns)).sum((1, 2)), None

    zero = jnp.zeros((rows * columns, x.shape[-1]))
    total, _ = jax.lax.scan(add, zero, (framed, g_bands))
    return total.reshape(kernel.shape).astype(kernel.dtype)


def _in_groups(bands: jax.Array) -> jax.Array:
    """Returns bands `[N, …]` as `[N / n, n, …]`, padded with zeros."""
    groups = -(-len(bands) // _TOGETHER)
    size = -(-len(bands) // groups)
    filled = jnp.pad(bands, ((0, groups * size - len(bands)), (0, 0), (0, 0), (0, 0)))
    return filled.reshape(groups, size, *bands.shape[1:])
