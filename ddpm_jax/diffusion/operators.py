"""Linear operators A of pictures, and how a denoiser is held to y = A x_0.

What is known of a picture is often linear in it: some of its pixels, a smaller copy, its shades of
grey. With a pseudo-inverse A⁺ (A A⁺ A = A), the part of x̂_0 that y decides is replaced, and the
part that y leaves open stays:

(22)  x̂_0 ← A⁺ y + (x̂_0 - A⁺ A x̂_0)                        Wang et al. 2023 (DDNM), equation 10

A row of `LINEAR_OPERATORS` takes the shape (H, W, C) of the pictures and its options.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ddpm_jax.diffusion.checks import check_prediction
from ddpm_jax.tables import row_with
from ddpm_jax.typing import (
    Denoiser,
    Examples,
    FractionalTimesteps,
    Prediction,
    Timesteps,
)

Pictures = Float[Array, "B H W C"]
Seen = Float[Array, "B h w c"]
Known = Bool[Any, "B H W 1"]
Shape = tuple[int, int, int]
# The luminance of red, green and blue (Rec. 601), by which image programs turn pictures to grey.
_LUMINANCE = (0.299, 0.587, 0.114)


class Measurement(NamedTuple):
    """What is known of each picture."""

    y: Float[Any, "B h w c"]
    """A x_0 `[B, …]`, in [-1, 1]; any finite numbers where `known` is false."""
    known: Known | None = None
    """For the operator `mask`: which pixels are known."""


class LinearOperator(NamedTuple):
    """A and A⁺, each of a batch; both get `Measurement.known`, which only a mask needs."""

    apply: Callable[[Any, Known | None], Any]
    """x `[B, H, W, C]` -> A x"""
    pseudo_inverse: Callable[[Any, Known | None], Any]
    """y -> A⁺ y `[B, H, W, C]`"""


def mask(shape: Shape) -> LinearOperator:
    """Returns the operator that keeps the known pixels and makes the others 0."""

    def keep(x: Examples, known: Known | None) -> Examples:
        if known is None:
            raise ValueError("a mask needs the known pixels")
        return jnp.where(known, x, 0)

    return LinearOperator(keep, keep)


def downsample(shape: Shape, *, factor: int = 2) -> LinearOperator:
    """Returns the operator that averages squares of `factor` pixels a side.

    Raises ValueError unless the factor is at least 2 and divides height and width.
    """
    height, width, _ = shape
    if factor < 2 or height % factor or width % factor:
        raise ValueError(
            f"factor is {factor}: it must be at least 2 and divide both sides of {height}×{width}"
        )

    def mean(x: Pictures, known: Known | None) -> Seen:
        blocks = (-1, height // factor, factor, width // factor, factor, x.shape[-1])
        return x.reshape(blocks).mean(axis=(2, 4))

    def enlarge(y: Seen, known: Known | None) -> Pictures:
        return y.repeat(factor, axis=1).repeat(factor, axis=2)

    return LinearOperator(mean, enlarge)


def grey(shape: Shape) -> LinearOperator:
    """Returns the operator that gives the luminance of colours, `[B, H, W, 1]`.

    Raises ValueError unless the pictures have three channels.
    """
    if shape[-1] != 3:
        raise ValueError(
            f"grey is for pictures of red, green and blue, not of {shape[-1]} channels"
        )
    weights = np.array(_LUMINANCE)
    back = weights / (weights**2).sum()

    def luminance(x: Pictures, known: Known | None) -> Seen:
        return (x * weights.astype(np.float32)).sum(axis=-1, keepdims=True)

    def colour(y: Seen, known: Known | None) -> Pictures:
        return y * back.astype(np.float32)

    return LinearOperator(luminance, colour)


def blur(shape: Shape, *, sigma: float = 1.0, cutoff: float = 0.01) -> LinearOperator:
    """Returns a Gaussian blur by `sigma` pixels, the picture mirrored at its edges.

    Waves that the blur weakens below `cutoff` count as lost: A⁺ would multiply their rounding
    errors by more than 1 / cutoff. Raises ValueError unless sigma > 0 and 0 < cutoff < 1.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma:g}: it must be above 0, a number of pixels")
    if not 0 < cutoff < 1:
        raise ValueError(f"cutoff is {cutoff:g}: it must lie between 0 and 1")
    height, width, _ = shape
    (rows, gains_h), (columns, gains_w) = _waves(height, sigma), _waves(width, sigma)
    gains = np.outer(gains_h, gains_w)
    kept = gains >= cutoff

    def scaled(by: np.ndarray) -> Callable[[Examples, Known | None], Examples]:
        def along_waves(x: Examples, known: Known | None) -> Examples:
            by_wave = jnp.einsum("ph,bhwc,qw->bpqc", rows, x, columns, precision="highest")
            by_wave *= by[None, :, :, None].astype(np.float32)
            return jnp.einsum("ph,bpqc,qw->bhwc", rows, by_wave, columns, precision="highest")

        return along_waves

    inverse = np.where(kept, 1 / np.where(kept, gains, 1), 0)
    return LinearOperator(scaled(np.where(kept, gains, 0)), scaled(inverse))


def _waves(size: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines `[n, n]` of a mirrored line, orthonormal, and the blur's gain of each."""
    wave, place = np.arange(size)[:, None], np.arange(size)[None] + 0.5
    cosines = np.cos(np.pi * wave * place / size) * np.sqrt(np.where(wave == 0, 1, 2) / size)
    gains = np.exp(-0.5 * (sigma * np.pi * np.arange(size) / size) ** 2)
    return cosines.astype(np.float32), gains


LINEAR_OPERATORS: dict[str, Callable[..., LinearOperator]] = {
    "mask": mask,
    "downsample": downsample,
    "grey": grey,
    "blur": blur,
}


def make_linear_operator(name: str, shape: tuple[int, ...], **options: Any) -> LinearOperator:
    """Returns a row of `LINEAR_OPERATORS`; ValueError for an unknown name or option."""
    row = row_with("linear operator", LINEAR_OPERATORS, name, options)
    return row(shape, **options)


def agreeing(operator: LinearOperator, x: Examples, given: Measurement) -> Examples:
    """Returns the picture nearest to x `[B, H, W, C]` with A x = y: equation (22).

    Known pixels of a mask are those of y to the bit.
    """
    seen = operator.pseudo_inverse(operator.apply(x, given.known), given.known)
    return operator.pseudo_inverse(given.y, given.known) + (x - seen)


def null_space(operator: LinearOperator) -> Callable[[Denoiser, Measurement], Denoiser]:
    """Returns DDNM's transform of a denoiser: equation (22) on x̂_0, with eps as it was.

    It is the `apply` of an `Operator` whose data are the `Measurement`.
    """

    def transform(denoiser: Denoiser, given: Measurement) -> Denoiser:
        def held(x_t: Examples, t: Timesteps | FractionalTimesteps) -> Prediction:
            found = check_prediction(denoiser(x_t, t), x_t)
            return found._replace(x_0=agreeing(operator, found.x_0, given))

        return held

    return transform
