"""The settings that all networks share, and the checks that several of them need."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ddpm_jax.errors import UserError, require, require_whole


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The base of each network's settings: the section `model` of a config."""

    kind: ClassVar[str]
    """The network's name in `MODELS`."""

    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the network's computations; parameters, losses and diffusion stay float32."""

    def __post_init__(self):
        require_whole("model.num_classes", self.num_classes, least=0)

    @property
    def may_take(self) -> tuple[str, ...]:
        """The parts of a Conditioning besides labels that the network can be built to take."""
        return ()

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if the network can't take examples of this shape."""


def require_epsilon(epsilon: float) -> None:
    """Raises UserError unless a normalisation can add this to a variance."""
    require(0 < epsilon < 1, "model.norm_epsilon", epsilon, "between 0 and 1")


MOST_FEATURES = 2**16
"""The most features or channels of a layer."""
MOST_LAYERS = 1_000
"""The most layers, or blocks, that one setting can ask for."""


def require_multipliers(channels: int, multipliers: tuple[int, ...]) -> None:
    """Raises UserError unless there is a whole number ≥ 1 for each of one or more levels.

    Times `channels`, none may be more than MOST_FEATURES.
    """
    good = len(multipliers) > 0 and all(isinstance(m, int) and m >= 1 for m in multipliers)
    require(good, "model.multipliers", multipliers, "one whole number ≥ 1 per level")
    need = f"at most {MOST_FEATURES // channels} each, for no more than {MOST_FEATURES} channels"
    require(channels * max(multipliers) <= MOST_FEATURES, "model.multipliers", multipliers, need)


def require_image(shape: tuple[int, ...]) -> None:
    """Raises UserError unless examples of this shape are images."""
    if len(shape) != 3:
        raise UserError(f"model: a U-Net needs images, and the data's examples are {shape}")


def divisor(multipliers: tuple[int, ...]) -> int:
    """Returns the number that must divide an image's sides: 2 for each level after the first."""
    return 2 ** (len(multipliers) - 1)


def require_divisible(shape: tuple[int, ...], multipliers: tuple[int, ...]) -> None:
    """Raises UserError unless the levels can halve images of this shape."""
    require_image(shape)
    height, width, _ = shape
    levels, step = len(multipliers), divisor(multipliers)
    if height % step or width % step:
        near = [max(step, round(side / step) * step) for side in (height, width)]
        raise UserError(
            f"model.multipliers: {levels} levels halve the image {levels - 1} times, and its "
            f"height × width, {height}×{width}, is not divisible by {step}; use fewer levels, or "
            f"images of {near[0]}×{near[1]}"
        )


def check_sides(shape: tuple[int, ...], multipliers: tuple[int, ...]) -> None:
    """Raises ValueError, with the nearest sides that work, unless the levels can halve the images.

    The shape is [B, H, W, C].
    """
    step = divisor(multipliers)
    height, width = shape[1:3]
    if height % step or width % step:
        below, above = (
            "x".join(str(max(step, rounded(side) * step)) for side in (height, width))
            for rounded in (lambda side: side // step, lambda side: -(-side // step))
        )
        raise ValueError(
            f"a U-Net of {len(multipliers)} levels needs sides that {step} divides, "
            f"not height x width = {height}x{width}: the nearest are {below} and {above}"
        )
