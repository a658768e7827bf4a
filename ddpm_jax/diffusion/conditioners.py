"""What a network sees beside x_t, t and a label, made of x_0 in training.

A row of `CONDITIONERS` takes the shape of the examples; its keyword-only parameters are its
options. `low_resolution` makes a stage of a cascade (Ho et al. 2021, "Cascaded diffusion models for
high fidelity image generation"): the network enlarges a picture. At sampling that picture comes
from another network, and has its faults. So in training it gets noise of a random level, and the
network is told the level: conditioning augmentation (their section 4.2, not truncated).
`self_conditioning` shows a network its own last x̂_0 (Chen et al. 2022, "Analog bits").
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.operators import downsample
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.tables import row_with
from ddpm_jax.typing import (
    Conditioning,
    Denoiser,
    Examples,
    FractionalTimesteps,
    Prediction,
    RecallingDenoiser,
    Timesteps,
    is_image,
)


class Conditioner(NamedTuple):
    """What a network sees beside x_t."""

    draw: Callable[[NoiseSchedule, Examples, jax.Array], Conditioning]
    """(schedule, x_0 `[B, …]`, key) -> the parts besides labels, for a training step."""
    takes: tuple[str, ...] = ()
    """Which parts of a `Conditioning` these are."""
    factor: int = 1
    """How many times smaller the sides of the picture are that the network enlarges."""
    noise: float = 0.0
    """The level of its noise at sampling, as a share of T."""
    most_noise: float = 0.0
    """The highest such level that training shows."""
    recalls: bool = False
    """Whether the image is the network's own last x̂_0; `draw` says where it is shown, as 0 or 1."""


NOTHING = Conditioner(lambda schedule, x_0, key: Conditioning())


def nothing(shape: tuple[Any, ...]) -> Conditioner:
    """Returns the conditioner of a network that sees x_t, t and a label alone."""
    return NOTHING


def low_resolution(
    shape: tuple[int, ...], *, factor: int = 2, most_noise: float = 0.5, noise: float = 0.1
) -> Conditioner:
    """Returns the conditioner of a network that enlarges pictures `factor` times.

    In training the small picture, its pixels repeated, gets noise of the times 0 … `most_noise` T;
    at sampling of the time `noise` T. Raises ValueError unless the factor divides both sides and 0
    ≤ noise ≤ most_noise ≤ 1.
    """
    if not 0 <= most_noise <= 1:
        raise ValueError(f"most_noise is {most_noise:g}: it must lie between 0 and 1")
    if not 0 <= noise <= most_noise:
        raise ValueError(
            f"noise is {noise:g}: it must lie between 0 and most_noise, which is {most_noise:g}"
        )
    if len(shape) != 3:
        raise ValueError(f"factor is {factor}: it is for pictures, and these examples are {shape}")
    operator = downsample(shape, factor=factor)

    def draw(schedule: NoiseSchedule, x_0: Examples, key: jax.Array) -> Conditioning:
        of_level, of_noise = jax.random.split(key)
        level = jax.random.randint(of_level, x_0.shape[:1], 0, round(most_noise * schedule.T) + 1)
        seen = operator.pseudo_inverse(operator.apply(x_0, None), None)
        eps = jax.random.normal(of_noise, x_0.shape)
        return noised(schedule, seen, level, eps)

    return Conditioner(draw, ("image", "image_noise"), factor, noise, most_noise)


def self_conditioning(shape: tuple[int, ...], *, probability: float = 0.5) -> Conditioner:
    """Returns the conditioner of a network that sees its own last x̂_0; zeros at first.

    With this probability a training step shows x̂_0 of a first call; else zeros. Raises ValueError
    unless it is in 0 … 1. Source: Chen et al. 2022, section 2.2.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability:g}: it must lie between 0 and 1")
    if not is_image(shape):
        need = f"it is for pictures, and these examples are {shape}"
        raise ValueError(f"probability is {probability:g}: {need}")

    def draw(schedule: NoiseSchedule, x_0: Examples, key: jax.Array) -> Conditioning:
        # One draw for the batch: a step that shows nothing need not call the network twice.
        shown = jax.random.bernoulli(key, probability)
        return Conditioning(image=jnp.full(x_0.shape, shown, jnp.float32))

    return Conditioner(draw, ("image",), recalls=True)


def as_shown(x_0: Examples) -> Examples:
    """Returns a prediction as a network sees it: in the range of pictures, without a gradient."""
    # At large t an error of eps makes x̂_0 a hundred times too large.
    return jax.lax.stop_gradient(jnp.clip(x_0, -1, 1))


def self_conditioned(
    told: Callable[[Examples | None], Denoiser | RecallingDenoiser],
) -> RecallingDenoiser:
    """Returns the denoiser whose memory is its last x̂_0; `told(x̂_0)` is one that sees it."""
    first: Any = told(None)
    recalls = isinstance(first, RecallingDenoiser)

    def init(x: Examples) -> Any:
        return jnp.zeros_like(x), first.init(x) if recalls else None

    def given(memory: Any) -> Denoiser:
        last, own = memory
        inner: Any = told(last)
        inner = inner.given(own) if recalls else inner

        def denoiser(x_t: Examples, t: Timesteps | FractionalTimesteps) -> Prediction:
            found = inner(x_t, t)
            return found._replace(memory=(as_shown(found.x_0), found.memory))

        return denoiser

    return RecallingDenoiser(init, given)


def noised(
    schedule: NoiseSchedule, image: Examples, level: Timesteps, eps: Examples
) -> Conditioning:
    """Returns the image `[B, …]` at the noise of its level, 0 … T, and the level."""
    level = jnp.broadcast_to(level, image.shape[:1])
    return Conditioning(image=q_sample(schedule, image, level, eps), image_noise=level)


CONDITIONERS: dict[str, Callable[..., Conditioner]] = {
    "nothing": nothing,
    "low_resolution": low_resolution,
    "self_conditioning": self_conditioning,
}


def make_conditioner(name: str, shape: tuple[Any, ...], **options: Any) -> Conditioner:
    """Returns a row of `CONDITIONERS`; ValueError for an unknown name or option."""
    row = row_with("conditioner", CONDITIONERS, name, options)
    return row(shape, **options)
