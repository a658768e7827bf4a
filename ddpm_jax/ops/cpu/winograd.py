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

from ddpm_jax.ops.cpu.barriers import fusion_barrier

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


def _overlapping(inputs: Matrix) -> Matrix:
    """Returns the map to a tile's pixels, along one axis, from windows that overlap.

    Its columns are the points of the tile's own window, then infinity, the last point, of the tile
    before, and 0, the first, of the tile after: no others have a part in the last pixel of a window
    or in its first.
    """
    window = _transposed(inputs)
    own = [list(row) for row in window[_FRAME : _FRAME + _TILE]]
    before, after = [0.0] * _TILE, [0.0] * _TILE
    before[0], after[-1] = window[-1][-1], window[0][0]
    return [[*row, *rest] for row, *rest in zip(own, before, after, strict=True)]


_OVERLAPPING = _overlapping(_BY.inputs)
Slopes = Float[Array, "6 6 tiles K"]


def is_profitable(
    x: jax.Array, kernel: jax.Array, strides: Any, pads: Any, precision: str | None
) -> bool:
    """Returns whether `convolve` computes this convolution, and faster than XLA does on a CPU.

    `precision` is the default precision of matrix products. Half precision leaves no room for the
    rounding errors here, and a request for full precision excludes them.
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
    """Returns the convolution of images with zeros around them; sides stay as they are."""
    values = _at_points(x, _BY.inputs, _FRAME, kernel)
    products = jnp.einsum("abnc,abck->abnk", values, _kernel_at_points(kernel))
    return _images(products, x.shape, kernel, overlapping=False)


# The gradients are of a sum of products, each of a kernel's value and a window's at one point: they
# are those values times the gradient to the products, taken through the same maps the other way.


@jax.jit
def slopes(g: Float[Array, "B H W K"], kernel: Float[Array, "3 3 C K"]) -> Slopes:
    """Returns the gradient to the products, given that to `convolve(x, kernel)`."""
    return _at_points(g, _transposed(_BY.outputs), 0, kernel)


@functools.partial(jax.jit, static_argnums=2)
def input_gradient(
    slopes: Slopes, kernel: Float[Array, "3 3 C K"], shape: tuple[int, ...]
) -> Float[Array, "B H W C"]:
    """Returns the gradient to x, whose shape is given, of `convolve(x, kernel)`."""
    products = jnp.einsum("abnk,abkc->abnc", slopes, _kernel_at_points(kernel.swapaxes(2, 3)))
    return _images(products, shape, kernel, overlapping=True)


@jax.jit
def kernel_gradient(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C K"], slopes: Slopes
) -> Float[Array, "3 3 C K"]:
    """Returns the gradient to the kernel of `convolve(x, kernel)`."""
    values = _at_points(x, _BY.inputs, _FRAME, kernel)
    # A product over the first axis of both sides takes twice as long.
    values = fusion_barrier(lambda values: values.swapaxes(2, 3), values, by=kernel)
    products = jnp.einsum("abcn,abnk->abck", values, slopes)
    gradient = jnp.asarray(_transposed(_OF_KERNEL), jnp.float32) @ products.reshape(
        len(_OF_KERNEL), -1
    )
    return gradient.reshape(kernel.shape)


def _kernel_at_points(kernel: jax.Array) -> jax.Array:
    values = jnp.asarray(_OF_KERNEL, jnp.float32) @ kernel.reshape(_SIDE**2, -1)
    return values.reshape(_POINTS, _POINTS, *kernel.shape[2:])


def _at_points(x: jax.Array, matrix: Matrix, frame: int, kernel: jax.Array) -> jax.Array:
    """Returns `[points, points, tiles, C]`: each tile's window, by the matrix along both axes.

    A window begins `frame` pixels before its tile; around the images are zeros.
    """
    places = [n - frame for n in range(len(matrix[0]))]

    def summed(x: jax.Array) -> jax.Array:
        return _sums(matrix, [_of_each_tile(x, n, axis=1) for n in places], axis=0)

    # Else XLA computes them anew for each of the points along the other axis.
    rows = fusion_barrier(summed, x, by=kernel)
    values = _sums(matrix, [_of_each_tile(rows, n, axis=3) for n in places], axis=1)
    return values.reshape(_POINTS, _POINTS, -1, x.shape[-1])


def _of_each_tile(x: jax.Array, place: int, axis: int) -> jax.Array:
    """Returns the pixels at one place of each tile, counted from its first, along an axis."""
    tiles = -(-x.shape[axis] // _TILE)
    end = _TILE * (tiles - 1) + place + 1
    framed = _padded(x, -place, end - x.shape[axis], axis)
    return jax.lax.slice_in_dim(framed, 0, None, _TILE, axis)


def _images(
    products: jax.Array, shape: tuple[int, ...], kernel: jax.Array, *, overlapping: bool
) -> jax.Array:
    """Returns images of that shape, but for its channels, from products at the points.

    Each tile is made of its own products, or of those of windows that overlap.
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
    """Puts so many zeros before and after x along an axis; of a number below 0 it cuts off."""
    pads = [(before, after, 0) if n == axis else (0, 0, 0) for n in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), pads)


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
