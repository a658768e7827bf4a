"""The settings of the networks, a section for each row of `MODELS`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ddpm_jax.errors import UserError, require


def _check_halvings(shape: tuple[int, ...], multipliers: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise UserError(f"model: a U-Net needs images, and the data's examples are {shape}")
    from ddpm_jax.models.unet import unet_divisor

    height, width, _ = shape
    levels, divisor = len(multipliers), unet_divisor(multipliers)
    if height % divisor or width % divisor:
        near = [max(divisor, round(side / divisor) * divisor) for side in (height, width)]
        raise UserError(
            f"model.multipliers: {levels} levels halve the image {levels - 1} times, and "
            f"{height}×{width} is not divisible by {divisor}; use fewer levels, or "
            f"images of {near[0]}×{near[1]}"
        )


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The paper's U-Net (Ho et al. 2020, appendix B); the defaults are its CIFAR-10 network."""

    kind: ClassVar[str] = "unet"
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in units of `channels`; each level halves height and width."""
    blocks: int = 2
    """Residual blocks a level on the way down (one more on the way up)."""
    attention: tuple[int, ...] = (16,)
    """Levels with self-attention, each named by the longer side of its image."""
    heads: int = 1
    dropout: float = 0.0
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self):
        require(self.channels >= 4, "model.channels", self.channels, "at least 4")
        good = len(self.multipliers) > 0 and min(self.multipliers) >= 1
        require(good, "model.multipliers", self.multipliers, "one whole number ≥ 1 a level")
        require(self.blocks >= 1, "model.blocks", self.blocks, "at least 1")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        good = self.heads >= 1 and all(width % self.heads == 0 for width in widths)
        require(good, "model.heads", self.heads, f"a divisor of each level's channels {widths}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        _check_halvings(shape, self.multipliers)
        sides = [max(shape[:2]) // 2**level for level in range(len(self.multipliers))]
        absent = sorted(set(self.attention) - set(sides))
        if absent:
            raise UserError(
                f"model.attention is {list(self.attention)}, and no level's longer side is "
                f"{absent[0]}; the levels have {', '.join(map(str, sides))}"
            )


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """An MLP whose layers are scaled by a table of T times; the defaults are for points."""

    kind: ClassVar[str] = "mlp"
    width: int = 128
    """Features of each hidden layer."""
    layers: int = 3
    """Hidden layers."""
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""

    def __post_init__(self):
        require(self.width >= 1, "model.width", self.width, "at least 1")
        require(self.layers >= 1, "model.layers", self.layers, "at least 1")
        require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Takes examples of any shape: it flattens them."""


@dataclass(frozen=True, kw_only=True)
class StepUNetConfig:
    """A small U-Net that sees the time as a plane beside x_t; the defaults are document 002's."""

    kind: ClassVar[str] = "step_unet"
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `channels`; each level halves height and width."""
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""

    def __post_init__(self):
        require(self.channels >= 1, "model.channels", self.channels, "at least 1")
        good = len(self.multipliers) > 0 and min(self.multipliers) >= 1
        require(good, "model.multipliers", self.multipliers, "one whole number ≥ 1 a level")
        require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        _check_halvings(shape, self.multipliers)


@dataclass(frozen=True, kw_only=True)
class SmallUNetConfig:
    """A U-Net for one picture, small enough for a CPU; the defaults have 395,763 parameters."""

    kind: ClassVar[str] = "small_unet"
    channels: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of the picture's own size, then of each level; a level halves height and width."""
    time_dim: int = 16
    """Entries of the time's sinusoidal table."""
    groups: int = 4
    """Groups of channels that are normalised together, where there are channels enough."""
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""

    def __post_init__(self):
        good = len(self.channels) >= 2 and min(self.channels) >= 1
        require(good, "model.channels", self.channels, "two or more whole numbers ≥ 1")
        require(self.time_dim >= 4, "model.time_dim", self.time_dim, "at least 4")
        require(self.groups >= 1, "model.groups", self.groups, "at least 1")
        require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for points; images of any size are padded as needed."""
        if len(shape) != 3:
            raise UserError(f"model: a U-Net needs images, and the data's examples are {shape}")


@dataclass(frozen=True, kw_only=True)
class AnnotatedUNetConfig:
    """The annotated diffusion model's U-Net; the defaults are document 004's for Fashion-MNIST."""

    kind: ClassVar[str] = "annotated_unet"
    dim: int = 28
    """Channels of the first level; a quarter of the time embedding's."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `dim`; each level halves height and width."""
    block: Literal["resnet", "convnext"] = "convnext"
    """What the levels are built of, two of them a level."""
    attention_bias: bool = False
    """Whether query, key and value of the linear attention have a bias."""
    dropout: float = 0.0
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self):
        require(self.dim >= 4, "model.dim", self.dim, "at least 4")
        good = len(self.multipliers) > 0 and min(self.multipliers) >= 1
        require(good, "model.multipliers", self.multipliers, "one whole number ≥ 1 a level")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        _check_halvings(shape, self.multipliers)


ModelConfig = UNetConfig | MlpConfig | StepUNetConfig | SmallUNetConfig | AnnotatedUNetConfig
