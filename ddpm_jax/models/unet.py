"""The U-Net of Ho et al. 2020, appendix B, as in their TensorFlow code."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.errors import UserError, require, require_whole
from ddpm_jax.models.conditioning import (
    NO_CONDITIONING,
    ConditionEmbedding,
    add_condition,
    require_taken,
)
from ddpm_jax.models.layers import Conv, Dense, GroupNorm, SelfAttention, upsample_nearest, zeros
from ddpm_jax.models.settings import (
    MOST_FEATURES,
    MOST_LAYERS,
    NetworkConfig,
    check_sides,
    require_divisible,
    require_multipliers,
)
from ddpm_jax.ops import Operations
from ddpm_jax.typing import Conditioning, Timesteps


@dataclass(frozen=True, kw_only=True)
class UNetConfig(NetworkConfig):
    """The paper's U-Net (Ho et al. 2020, appendix B); the defaults are its CIFAR-10 network."""

    kind: ClassVar[str] = "unet"
    channels: int = 128
    """Channels that the multipliers multiply; a quarter of the time embedding's."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in units of `channels`; each level halves height and width."""
    blocks: int = 2
    """Residual blocks per level on the way down; there is one more on the way up."""
    attention: tuple[int, ...] = (16,)
    """Levels with self-attention, each named by the longer side of its image."""
    heads: int = 1
    """Heads of each self-attention."""
    dropout: float = 0.0
    """Share of the features that each residual block drops in training."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self):
        super().__post_init__()
        require_whole("model.channels", self.channels, 4, MOST_FEATURES)
        require_multipliers(self.channels, self.multipliers)
        require_whole("model.blocks", self.blocks, most=MOST_LAYERS)
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        good = self.heads >= 1 and all(width % self.heads == 0 for width in widths)
        require(good, "model.heads", self.heads, f"a divisor of each level's channels {widths}")

    @property
    def may_take(self) -> tuple[str, ...]:
        return ("image", "image_noise")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        require_divisible(shape, self.multipliers)
        sides = [max(shape[:2]) // 2**level for level in range(len(self.multipliers))]
        absent = sorted(set(self.attention) - set(sides))
        if absent:
            raise UserError(
                f"model.attention is {list(self.attention)}, and no level's longer side is "
                f"{absent[0]}; the levels have {', '.join(map(str, sides))}"
            )


class ResidualBlock(nn.Module):
    """Adds two convolutions of x to x; the condition is added between them.

    x is [B, H, W, any], condition [B or 1, any], the result [B, H, W, channels]. The second
    convolution is zero at initialisation. `dropout` is the rate to apply now: 0 when not training.
    """

    channels: int
    dropout: float
    dtype: DTypeLike
    ops: Operations

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], condition: Float[Array, "b features"]
    ) -> Float[Array, "B H W channels"]:
        common: dict[str, Any] = {"dtype": self.dtype, "ops": self.ops}
        h = GroupNorm(activation="swish", **common, name="norm_0")(x)
        h = Conv(self.channels, **common, name="conv_0")(h)
        shift = Dense(self.channels, **common, name="condition")(self.ops.swish(condition))
        h = add_condition(h, shift)
        h = GroupNorm(activation="swish", **common, name="norm_1")(h)
        h = nn.Dropout(self.dropout, deterministic=False)(h)
        h = Conv(self.channels, kernel_init=zeros, **common, name="conv_1")(h)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, **common, name="shortcut")(x)
        return x + h


def encode(
    config: UNetConfig,
    ops: Operations,
    x_t: Float[Array, "B H W C"],
    t: Timesteps,
    conditioning: Conditioning,
    *,
    train: bool,
) -> tuple[jax.Array, list[jax.Array], Callable[..., jax.Array]]:
    """Returns the features in the middle, those of the way down, and what makes a stage.

    Called inside a compact module, in which the layers get their names. A stage `(h, width, place)`
    is a residual block, and attention where the level has it.
    """
    check_sides(x_t.shape, config.multipliers)
    common: dict[str, Any] = {"dtype": config.dtype, "ops": ops}
    condition = ConditionEmbedding(
        4 * config.channels, config.num_classes, "swish", **common, name="condition"
    )(t, conditioning.labels, conditioning.image_noise)
    if conditioning.image is not None:
        x_t = jnp.concatenate([x_t, conditioning.image], axis=-1)
    widths = [config.channels * multiplier for multiplier in config.multipliers]
    kinds: tuple[Any, Any] = (ResidualBlock, SelfAttention)
    residual, attention = map(nn.remat, kinds) if config.remat else kinds

    def block(h: jax.Array, width: int, name: str) -> jax.Array:
        rate = config.dropout if train else 0.0
        return residual(width, rate, **common, name=name)(h, condition)

    def attend(h: jax.Array, name: str) -> jax.Array:
        return attention(config.heads, **common, name=name)(h)

    def stage(h: jax.Array, width: int, place: str) -> jax.Array:
        h = block(h, width, f"{place}_block")
        return attend(h, f"{place}_attention") if max(h.shape[1:3]) in config.attention else h

    # The first and last convolutions are float32: half precision rounds a pixel by as much as
    # the noise of the last steps, and with three channels they cost little.
    h = Conv(config.channels, ops=ops, name="conv_in")(x_t).astype(config.dtype)
    skips = [h]
    for level, width in enumerate(widths):
        for i in range(config.blocks):
            h = stage(h, width, f"down_{level}_{i}")
            skips.append(h)
        if level < len(widths) - 1:
            h = Conv(width, stride=2, **common, name=f"down_{level}")(h)
            skips.append(h)

    h = block(h, widths[-1], "middle_0_block")
    h = attend(h, "middle_attention")
    return block(h, widths[-1], "middle_1_block"), skips, stage


class UNet(nn.Module):
    """Predicts `out_channels` values per pixel, zero at initialisation.

    x_t is [B, H, W, C] float32, t in 1…T ([B] or a scalar, fractional too), labels [B] in
    0…num_classes; label num_classes, or None for all, means "no class". `takes` says whether it
    takes an image and its noise too. The result is float32, [B, H, W, out_channels]. Level i has
    channels · multipliers[i] channels and sides of 1/2^i. A level has attention if its LONGER side
    is in `attention`, so that an image and its transpose meet the same network. Needs the rng
    'dropout' only in training with dropout > 0. Raises ValueError for sides that the levels don't
    halve, and for conditioning that it does not take.
    """

    config: UNetConfig
    out_channels: int
    ops: Operations = Operations()
    takes: tuple[str, ...] = ()
    fractional_times: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self,
        x_t: Float[Array, "B H W C"],
        t: Timesteps,
        conditioning: Conditioning = NO_CONDITIONING,
        *,
        train: bool,
    ) -> Float[Array, "B H W out_channels"]:
        config, ops = self.config, self.ops
        require_taken(self, conditioning)
        h, skips, stage = encode(config, ops, x_t, t, conditioning, train=train)
        common: dict[str, Any] = {"dtype": config.dtype, "ops": ops}
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        for level in reversed(range(len(widths))):
            for i in range(config.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = stage(h, widths[level], f"up_{level}_{i}")
            if level:
                h = Conv(widths[level], **common, name=f"up_{level}")(upsample_nearest(h))

        h = GroupNorm(activation="swish", ops=ops, name="norm_out")(h)
        return Conv(self.out_channels, kernel_init=zeros, ops=ops, name="conv_out")(h)
