"""3x3 convolutions with a quarter of the multiplications, for a CPU.

The libraries of accelerators have their own. Sources: Winograd 1980, "Arithmetic complexity of
computations"; Lavin & Gray 2016 for networks and for the gradient of a kernel.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from ddpm_jax.ops.cpu.barriers import fusion_barrier

_TILE, _SIDE = 4, 3
_POINTS = _TILE + _SIDE - 1
_FRAME = _SIDE // 2
# With fewer channels, the transforms of the images take as long as the products save. With fewer
# tiles, the transform of the kernel does.
_CHANNELS, _TILES = 48, 64


Matrix = Sequence[Sequence[float]]


class _Transforms(NamedTuple):
    """The three matrices of y = outputs · ((kernel · w) ∘ (inputs · d)) along one axis.

    d is a window of pixels, w a kernel, y the tile of results; ∘ multiplies point by point.
    """

    inputs: Matrix  # [points, points]
    kernel: Matrix  # [points, side]
    outputs: Matrix  # [tile, points]


def _transforms(points: tuple[float, ...]) -> _Transforms:
    """Returns the transforms that multiply at these points and at infinity (Toom 1963, Cook 1966).

    The values at n - 1 points and the leading coefficient determine a polynomial of n coefficients.
    So the polynomials of a tile and a kernel are multiplied by multiplying their values. The
    convolution is the transpose of the map from the tile to that product.
    """
    others = [[other for other in points if other != point] for point in points]

    def evaluated(coefficients: int, scales: Sequence[float]) -> Matrix:
        pairs = zip(points, scales, strict=True)
        finite = [[point**n / scale for n in range(coefficients)] for point, scale in pairs]
        return [*finite, [0.0] * (coefficients - 1) + [1.0]]

    scales = [
        math.prod(point - other for other in rest)
        for point, rest in zip(points, others, strict=True)
    ]
    return _Transforms(
        # A polynomial for each point that is 0 at all others, and one that is 0 at all points.
        inputs=[*([*_with_roots(rest), 0.0] for rest in others), _with_roots(points)],
        kernel=evaluated(_SIDE, scales),
        outputs=_transposed(evaluated(_TILE, [1.0] * len(points))),
    )


def _with_roots(roots: Sequence[float]) -> list[float]:
    """Returns the coefficients of the polynomial with these roots; the last one is 1."""
    coefficients = [1.0]
    for root in roots:
        shifted, same = [0.0, *coefficients], [*coefficients, 0.0]
        coefficients = [high - root * low for high, low in zip(shifted, same, strict=True)]
    return coefficients


def _transposed(matrix: Matrix) -> Matrix:
    return list(zip(*matrix, strict=True))


# These points had the smallest rounding errors of all that were tried: twice those of the plain
# sum. The usual points 0, ±1, ±2 have four times the errors of the plain sum.
_BY = _transforms((0.0, 0.75, -0.75, 1.5, -1.5))
_OF_KERNEL = [
    [along * across for along in row for across in column]
    for row in _BY.kernel
    for column in _BY.kernel
]


def _overlapping(inputs: Matrix) -> Matrix:
    """Returns the map, along one axis, from the points of overlapping windows to a tile's pixels.

    Its columns are all points of the tile's own window, then infinity (the last point) of the tile
    before, then 0 (the first point) of the tile after. A window's last pixel depends on infinity
    alone, and its first pixel on 0 alone.
    """
    window = _transposed(inputs)
    own = [list(row) for row in window[_FRAME : _FRAME + _TILE]]
    before, after = [0.0] * _TILE, [0.0] * _TILE
    before[0], after[-1] = window[-1][-1], window[0][0]
    return [[*row, *rest] for row, *rest in zip(own, before, after, strict=True)]


_OVERLAPPING = _overlapping(_BY.inputs)
Cotangents = Float[Array, "6 6 tiles K"]


def is_profitable(
    x: jax.Array, kernel: jax.Array, strides: Any, pads: Any, precision: str | None
) -> bool:
    """Returns whether `convolve` can compute this convolution and is faster than XLA on a CPU.

    `precision` is the default precision of matrix products. It is not used in half precision, where
    its rounding errors would be too large, nor if full precision is requested.
    """
    fits = kernel.shape[:2] == (_SIDE, _SIDE) and tuple(strides) == (1, 1)
    fits = fits and all(tuple(pad) == (_FRAME, _FRAME) for pad in pads)
    whole = x.dtype == kernel.dtype == jnp.float32 and precision in (None, "default")
    tiles = math.prod(-(-side // _TILE) for side in x.shape[1:3]) * x.shape[0]
    return fits and whole and min(kernel.shape[2:]) >= _CHANNELS and tiles >= _TILES


@jax.jit
def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C K"]
) -> Float[Array, "B H W K"]:
    """Returns the convolution of zero-padded images; height and width stay the same."""
    values = _at_points(x, _BY.inputs, _FRAME, kernel)
    products = jnp.einsum("abnc,abck->abnk", values, _kernel_at_points(kernel))
    return _images(products, x.shape, kernel, overlapping=False)


# Each product is a value of the kernel times a value of a window, at one point. So the gradient of
# one factor is the cotangent of the products times the other factor, mapped back by the transposed
# transforms.


@jax.jit
def cotangents(g: Float[Array, "B H W K"], kernel: Float[Array, "3 3 C K"]) -> Cotangents:
    """Returns the cotangents of the products, given the cotangent g of `convolve(x, kernel)`."""
    return _at_points(g, _transposed(_BY.outputs), 0, kernel)


@functools.partial(jax.jit, static_argnums=2)
def input_gradient(
    cotangents: Cotangents, kernel: Float[Array, "3 3 C K"], shape: tuple[int, ...]
) -> Float[Array, "B H W C"]:
    """Returns the gradient of `convolve(x, kernel)` with respect to x, which has this shape."""
    products = jnp.einsum("abnk,abkc->abnc", cotangents, _kernel_at_points(kernel.swapaxes(2, 3)))
    return _images(products, shape, kernel, overlapping=True)


@jax.jit
def kernel_gradient(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C K"], cotangents: Cotangents
) -> Float[Array, "3 3 C K"]:
    """Returns the gradient of `convolve(x, kernel)` with respect to the kernel."""
    values = _at_points(x, _BY.inputs, _FRAME, kernel)
    # A product over the first axis of both sides takes twice as long.
    values = fusion_barrier(lambda values: values.swapaxes(2, 3), values, by=kernel)
    products = jnp.einsum("abcn,abnk->abck", values, cotangents)
    gradient = jnp.asarray(_transposed(_OF_KERNEL), jnp.float32) @ products.reshape(
        len(_OF_KERNEL), -1
    )
    return gradient.reshape(kernel.shape)


def _kernel_at_points(kernel: jax.Array) -> jax.Array:
    values = jnp.asarray(_OF_KERNEL, jnp.float32) @ kernel.reshape(_SIDE**2, -1)
    return values.reshape(_POINTS, _POINTS, *kernel.shape[2:])


def _at_points(x: jax.Array, matrix: Matrix, frame: int, kernel: jax.Array) -> jax.Array:
    """Returns `[points, points, tiles, C]`: the matrix applied to each window along both axes.

    A window begins `frame` pixels before its tile. The images are padded with zeros.
    """
    places = [n - frame for n in range(len(matrix[0]))]

    def summed(x: jax.Array) -> jax.Array:
        return _sums(matrix, [_of_each_tile(x, n, axis=1) for n in places], axis=0)

    # Otherwise XLA computes them again for each point along the other axis.
    rows = fusion_barrier(summed, x, by=kernel)
    values = _sums(matrix, [_of_each_tile(rows, n, axis=3) for n in places], axis=1)
    return values.reshape(_POINTS, _POINTS, -1, x.shape[-1])


def _of_each_tile(x: jax.Array, place: int, axis: int) -> jax.Array:
    """Returns, along an axis, the pixel at offset `place` from the first pixel of each tile."""
    tiles = -(-x.shape[axis] // _TILE)
    end = _TILE * (tiles - 1) + place + 1
    framed = _padded(x, -place, end - x.shape[axis], axis)
    return jax.lax.slice_in_dim(framed, 0, None, _TILE, axis)


def _images(
    products: jax.Array, shape: tuple[int, ...], kernel: jax.Array, *, overlapping: bool
) -> jax.Array:
    """Returns images from products at the points; `shape` gives the size, not the channels.

    Each tile is computed from its own products, or, if `overlapping`, also from its neighbours'.
    """
    matrix = _OVERLAPPING if overlapping else _BY.outputs
    height, width = shape[1:3]
    tall, wide = -(-height // _TILE), -(-width // _TILE)

    def terms(points: list[jax.Array], axis: int) -> list[jax.Array]:
        if not overlapping:
            return points
        return [*points, _padded(points[-1], 1, -1, axis), _padded(points[0], -1, 1, axis)]

    def summed(products: jax.Array) -> jax.Array:
        tiles = products.reshape(_POINTS, _POINTS, -1, tall, wide, products.shape[-1])
        rows = _sums(matrix, terms([tiles[:, n] for n in range(_POINTS)], axis=3), axis=4)
        return rearrange(rows, "a b y x j k -> a b y (x j) k")

    rows = fusion_barrier(summed, products, by=kernel)
    images = _sums(matrix, terms(list(rows), axis=1), axis=2)
    return rearrange(images, "b y i x k -> b (y i) x k")[:, :height, :width]


def _padded(x: jax.Array, before: int, after: int, axis: int) -> jax.Array:
    """Pads x with zeros along an axis; a negative number cuts off as many entries instead."""
    pads = [(before, after, 0) if n == axis else (0, 0, 0) for n in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), pads)


def _sums(matrix: Matrix, arrays: list[jax.Array], axis: int) -> jax.Array:
    """Returns the sums of the arrays weighted by each row of the matrix, along a new axis.

    Weights of 0 are multiplied too: leaving them out makes XLA compile longer and saves little.
    """
    shape = [-1 if n == axis else 1 for n in range(arrays[0].ndim + 1)]
    weights = [jnp.asarray(each, jnp.float32).reshape(shape) for each in zip(*matrix, strict=True)]
    terms = [
        jnp.expand_dims(array, axis) * each for array, each in zip(arrays, weights, strict=True)
    ]
    return functools.reduce(jnp.add, terms)
