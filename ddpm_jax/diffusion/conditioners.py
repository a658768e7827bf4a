"""What a network sees beside x_t, t and a label, made of x_0 in training.

A row of `CONDITIONERS` takes the shape of the examples; its keyword-only parameters are its
options. `low_resolution` makes a stage of a cascade (Ho et al. 2021, "Cascaded diffusion models for
high fidelity image generation"): the network enlarges a picture. At sampling that picture comes
from another network, and has its faults. So in training it gets noise of a random level, and the
network is told the level: conditioning augmentation (their section 4.2, not truncated).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.operators import downsample
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.tables import row_with
from ddpm_jax.typing import Conditioning, Examples, Timesteps


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

    return Conditioner(draw, ("image", "image_noise"), factor, noise)


def noised(
    schedule: NoiseSchedule, image: Examples, level: Timesteps, eps: Examples
) -> Conditioning:
    """Returns the image `[B, …]` at the noise of its level, 0 … T, and the level."""
    level = jnp.broadcast_to(level, image.shape[:1])
    return Conditioning(image=q_sample(schedule, image, level, eps), image_noise=level)


CONDITIONERS: dict[str, Callable[..., Conditioner]] = {
    "nothing": nothing,
    "low_resolution": low_resolution,
}


def make_conditioner(name: str, shape: tuple[Any, ...], **options: Any) -> Conditioner:
    """Returns a row of `CONDITIONERS`; ValueError for an unknown name or option."""
    row = row_with("conditioner", CONDITIONERS, name, options)
    return row(shape, **options)
