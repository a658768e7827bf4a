"""3x3 convolutions with a quarter of the multiplications, for a CPU.

Accelerators' libraries have their own. Source: Winograd 1980, "Arithmetic complexity of
computations"; for networks, and of a kernel's gradient, Lavin & Gray 2016.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ddpm_jax.models.on_cpu import written

_TILE, _SIDE = 4, 3
_POINTS = _TILE + _SIDE - 1
_FRAME = _SIDE // 2
# With fewer channels, what goes into and out of the products takes as long as they save; with fewer
# tiles, the kernel does.
_CHANNELS, _TILES = 48, 64


Matrix = Sequence[Sequence[float]]


class _Transforms(NamedTuple):
    """Along one axis, y = outputs · (kernel · w ∘ inputs · d): a window d by a kernel w."""

    inputs: Matrix  # [points, points]
    kernel: Matrix  # [points, side]
    outputs: Matrix  # [tile, points]


def _transforms(points: tuple[float, ...]) -> _Transforms:
    """Returns the transforms that multiply at these points and at infinity (Toom 1963, Cook 1966).

    A polynomial of n coefficients is known by its values at n - 1 points and its leading one. So a
    tile's and a kernel's, multiplied point by point, give their product's; the convolution is the
    transpose of the map from the tile to that product.
    """
    others = [[other for other in points if other != point] for point in points]

    def evaluated(coefficients: int, scales: Sequence[float]) -> Matrix:
        pairs = zip(points, scales, strict=True)
        finite = [[point**n / scale for n in range(coefficients)] for point, scale in pairs]
        return [*finite, [0.0] * (coefficients - 1) + [1.0]]

    slopes = [
        math.prod(point - other for other in rest)
        for point, rest in zip(points, others, strict=True)
    ]
    return _Transforms(
        # The polynomials that are 0 at all points but one, and at all of them.
        inputs=[*([*_with_roots(rest), 0.0] for rest in others), _with_roots(points)],
        kernel=evaluated(_SIDE, slopes),
        outputs=_transposed(evaluated(_TILE, [1.0] * len(points))),
    )


def _with_roots(roots: Sequence[float]) -> list[float]:
    """Returns the polynomial's coefficients, the leading one, 1, last."""
    coefficients = [1.0]
    for root in roots:
        shifted, same = [0.0, *coefficients], [*coefficients, 0.0]
        coefficients = [high - root * low for high, low in zip(shifted, same, strict=True)]
    return coefficients


def _transposed(matrix: Matrix) -> Matrix:
    return list(zip(*matrix, strict=True))


# Of the points tried these lose the least: rounding errors are twice those of the plain sum, where
# the usual 0, ±1, ±2 make them four times as large.
_BY = _transforms((0.0, 0.75, -0.75, 1.5, -1.5))
_OF_KERNEL = [
    [along * across for along in row for across in column]
    for row in _BY.kernel
    for column in _BY.kernel
]


def pays(x: jax.Array, kernel: jax.Array, strides: Any, pads: Any, precision: Any) -> bool:
    """Whether `convolve` may stand for such a convolution, and is faster on a CPU."""
    fits = kernel.shape[:2] == (_SIDE, _SIDE) and tuple(strides) == (1, 1)
    fits = fits and all(tuple(pad) == (_FRAME, _FRAME) for pad in pads)
    # Half the digits leave no room for its rounding; who asks for all of them is given them.
    asked = (precision, jax.config.jax_default_matmul_precision)  # type: ignore
    whole = x.dtype == kernel.dtype == jnp.float32 and set(asked) <= {None, "default"}
    tiles = math.prod(-(-side // _TILE) for side in x.shape[1:3]) * x.shape[0]
    return fits and whole and min(kernel.shape[2:]) >= _CHANNELS and tiles >= _TILES


def sums_at_once() -> bool:
    """Whether a sum over all tiles is one device's: several would exchange four times as much."""
    return jax.device_count() == 1


@jax.jit
def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C K"]
) -> Float[Array, "B H W K"]:
    """Returns the convolution of images with zeros around them; sides stay as they are."""
    height, width = x.shape[1:3]
    tall, wide = -(-height // _TILE), -(-width // _TILE)
    values = _at_points(_whole_tiles(x, _FRAME), _BY.inputs, kernel)
    products = jnp.einsum("abnc,abck->abnk", values, _kernel_at_points(kernel))
    products = products.reshape(_POINTS, _POINTS, -1, tall, wide, kernel.shape[-1])
    rows = _sums(_BY.outputs, [products[:, n] for n in range(_POINTS)], axis=4)
    rows = written(rearrange(rows, "a b y x j k -> a b y (x j) k"), kernel)
    images = _sums(_BY.outputs, list(rows), axis=2)
    return rearrange(images, "b y i x k -> b (y i) x k")[:, :height, :width]


@jax.jit
def kernel_gradient(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C K"], g: Float[Array, "B H W K"]
) -> Float[Array, "3 3 C K"]:
    """Returns the gradient to the kernel, of the gradient g to `convolve(x, kernel)`."""
    values = _at_points(_whole_tiles(x, _FRAME), _BY.inputs, kernel)
    slopes = _at_points(_whole_tiles(g, 0), _transposed(_BY.outputs), kernel)
    # A product over the first axis of both sides takes twice as long.
    values = written(values.swapaxes(2, 3), kernel)
    products = jnp.einsum("abcn,abnk->abck", values, slopes)
    gradient = jnp.asarray(_transposed(_OF_KERNEL), jnp.float32) @ products.reshape(
        len(_OF_KERNEL), -1
    )
    return gradient.reshape(kernel.shape)


def _kernel_at_points(kernel: jax.Array) -> jax.Array:
    values = jnp.asarray(_OF_KERNEL, jnp.float32) @ kernel.reshape(_SIDE**2, -1)
    return values.reshape(_POINTS, _POINTS, *kernel.shape[2:])


def _whole_tiles(x: jax.Array, frame: int) -> jax.Array:
    """Fills up sides to a whole number of tiles, and frames all of it, with zeros."""
    pads = [(frame, frame + -side % _TILE) for side in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def _at_points(x: jax.Array, matrix: Matrix, kernel: jax.Array) -> jax.Array:
    """Returns `[points, points, tiles, C]`: each tile's window, by the matrix along both axes."""
    window = len(matrix[0])
    height, width = (side - window + 1 for side in x.shape[1:3])
    rows = _sums(matrix, [x[:, n : n + height : _TILE] for n in range(window)], axis=0)
    # Else XLA computes them anew for each of the points along the other axis.
    rows = written(rows, kernel)
    columns = [rows[:, :, :, n : n + width : _TILE] for n in range(window)]
    return _sums(matrix, columns, axis=1).reshape(_POINTS, _POINTS, -1, x.shape[-1])


def _sums(matrix: Matrix, arrays: list[jax.Array], axis: int) -> jax.Array:
    """Returns, along a new axis, the arrays' sums weighted by each of the matrix's rows.

    Weights of 0 too: XLA takes longer to compile, and hardly less to run, what leaves them out.
    """
    shape = [-1 if n == axis else 1 for n in range(arrays[0].ndim + 1)]
    weights = [jnp.asarray(each, jnp.float32).reshape(shape) for each in zip(*matrix, strict=True)]
    terms = [
        jnp.expand_dims(array, axis) * each for array, each in zip(arrays, weights, strict=True)
    ]
    return functools.reduce(jnp.add, terms)
