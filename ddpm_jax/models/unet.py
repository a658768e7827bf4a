"""The U-Net of Ho et al. 2020, appendix B, as in their TensorFlow code."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.errors import UserError, require, require_whole
from ddpm_jax.models.conditioning import (
    NO_CONDITIONING,
    ConditionEmbedding,
    TimeEmbedding,
    add_condition,
    require_taken,
)
from ddpm_jax.models.layers import (
    Conv,
    Dense,
    Dropout,
    GroupNorm,
    SelfAttention,
    UpsampledConv,
    downsample_mean,
    zeros,
)
from ddpm_jax.models.settings import (
    MOST_FEATURES,
    MOST_LAYERS,
    NetworkConfig,
    check_sides,
    require_divisible,
    require_epsilon,
    require_multipliers,
)
from ddpm_jax.ops import Operations
from ddpm_jax.ops.resampling import upsample_nearest
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
    head_channels: int | None = None
    """Channels of each head, and then each level has as many heads as fit; None for `heads`."""
    middle_attention: bool = True
    """Whether there is self-attention between the two blocks of the smallest level."""
    norm_groups: int = 32
    """Groups of each normalisation; fewer where a group would have one channel."""
    norm_epsilon: float = 1e-6
    """What each normalisation adds to the variance."""
    scale_shift: bool = False
    """Let the condition scale and shift each block's second normalisation, as in Nichol & Dhariwal
    2021, and not only shift before it."""
    downsampling: Literal["same", "symmetric"] = "same"
    """Padding of the convolutions of stride 2: at the far ends as in TensorFlow, or at all ends."""
    resampling: Literal["convolution", "residual"] = "convolution"
    """What changes the size between levels: a convolution, or a residual block (Dhariwal & Nichol
    2021, section 3)."""
    time_embedding: TimeEmbedding = "ho"
    """ho has sines first; openai has cosines first, and its lowest frequency is a little higher."""
    time_scale: float = 1.0
    """What the time, counted from 0, is multiplied by; 1000/T as in OpenAI's rescaled timesteps."""
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
        if self.head_channels is not None:
            require_whole("model.head_channels", self.head_channels, most=MOST_FEATURES)
            good = all(width % self.head_channels == 0 for width in widths)
            need = f"a divisor of each level's channels {widths}"
            require(good, "model.head_channels", self.head_channels, need)
            require(self.heads == 1, "model.heads", self.heads, "1 beside model.head_channels")
        require_whole("model.norm_groups", self.norm_groups, most=MOST_FEATURES)
        require_epsilon(self.norm_epsilon)
        require(0 < self.time_scale <= 1e6, "model.time_scale", self.time_scale, "in (0, 1e6]")

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

    x is [B, H, W, any], condition [B or 1, any], the result [B, H, W, channels]. `skip`, if given,
    is joined to x. The second convolution is zero at initialisation. `dropout` is the rate to apply
    now: 0 when not training. With `scale_shift` the condition scales and shifts the second
    normalisation. `resample` changes the size of x, and of what is convolved.
    """

    channels: int
    dropout: float
    dtype: DTypeLike
    ops: Operations
    groups: int = 32
    epsilon: float = 1e-6
    scale_shift: bool = False
    resample: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        condition: Float[Array, "b features"],
        skip: Float[Array, "B H W K"] | None = None,
    ) -> Float[Array, "B H W channels"]:
        common: dict[str, Any] = {"dtype": self.dtype, "ops": self.ops}
        norm: dict[str, Any] = {"groups": self.groups, "epsilon": self.epsilon, **common}
        joints = () if skip is None else (x.shape[-1],)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)
        h = GroupNorm(activation="swish", **norm, name="norm_0")(x, joints)
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = Conv(self.channels, **common, name="conv_0")(h)
        condition = self.ops.swish(condition)
        if self.scale_shift:
            both = Dense(2 * self.channels, **common, name="condition")(condition)
            scale, shift = jnp.split(both, 2, axis=-1)
            h = GroupNorm(**norm, name="norm_1")(h) * (1 + scale[:, None, None, :])
            h = self.ops.swish(add_condition(h, shift))
        else:
            h = add_condition(h, Dense(self.channels, **common, name="condition")(condition))
            h = GroupNorm(activation="swish", **norm, name="norm_1")(h)
        h = Dropout(self.dropout, self.ops)(h)
        h = Conv(self.channels, kernel_init=zeros, **common, name="conv_1")(h)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, **common, name="shortcut")(x)
        return x + h


@dataclass(frozen=True)
class Layers:
    """What a U-Net is built of; used inside a compact module, which names the layers."""

    config: UNetConfig
    ops: Operations
    condition: Float[Array, "b features"]
    train: bool

    @property
    def norm(self) -> dict[str, Any]:
        """The settings of each normalisation."""
        return {"groups": self.config.norm_groups, "epsilon": self.config.norm_epsilon}

    def block(
        self,
        h: jax.Array,
        width: int,
        name: str,
        *,
        skip: jax.Array | None = None,
        resample: Any = None,
    ) -> jax.Array:
        """Returns h after a residual block."""
        options = {"scale_shift": self.config.scale_shift, "resample": resample, **self.norm}
        rate = self.config.dropout if self.train else 0.0
        kind: Any = nn.remat(ResidualBlock) if self.config.remat else ResidualBlock
        return kind(width, rate, **options, **self._common, name=name)(h, self.condition, skip)

    def attend(self, h: jax.Array, name: str) -> jax.Array:
        """Returns h after self-attention."""
        each = self.config.head_channels
        heads = h.shape[-1] // each if each else self.config.heads
        kind: Any = nn.remat(SelfAttention) if self.config.remat else SelfAttention
        return kind(heads, **self.norm, **self._common, name=name)(h)

    def stage(
        self, h: jax.Array, width: int, place: str, skip: jax.Array | None = None
    ) -> jax.Array:
        """Returns h after a residual block, and attention where the level has it."""
        h = self.block(h, width, f"{place}_block", skip=skip)
        attends = max(h.shape[1:3]) in self.config.attention
        return self.attend(h, f"{place}_attention") if attends else h

    def down(self, h: jax.Array, width: int, name: str) -> jax.Array:
        """Returns h with half its sides."""
        if self.config.resampling == "residual":
            return self.block(h, width, name, resample=downsample_mean)
        ends = self.config.downsampling == "symmetric"
        return Conv(width, stride=2, symmetric=ends, **self._common, name=name)(h)

    def up(self, h: jax.Array, width: int, name: str) -> jax.Array:
        """Returns h with twice its sides."""
        if self.config.resampling == "residual":
            return self.block(h, width, name, resample=upsample_nearest)
        return UpsampledConv(width, **self._common, name=name)(h)

    @property
    def _common(self) -> dict[str, Any]:
        return {"dtype": self.config.dtype, "ops": self.ops}


def encode(
    config: UNetConfig,
    ops: Operations,
    x_t: Float[Array, "B H W C"],
    t: Timesteps,
    conditioning: Conditioning,
    *,
    train: bool,
) -> tuple[jax.Array, list[jax.Array], Layers]:
    """Returns the features in the middle, those of the way down, and what the way up is built of.

    Called inside a compact module, in which the layers get their names.
    """
    check_sides(x_t.shape, config.multipliers)
    time: dict[str, Any] = {"style": config.time_embedding, "time_scale": config.time_scale}
    condition = ConditionEmbedding(
        4 * config.channels,
        config.num_classes,
        "swish",
        dtype=config.dtype,
        ops=ops,
        **time,
        name="condition",
    )(t, conditioning.labels, conditioning.image_noise)
    if conditioning.image is not None:
        x_t = jnp.concatenate([x_t, conditioning.image], axis=-1)
    layers = Layers(config, ops, condition, train)
    widths = [config.channels * multiplier for multiplier in config.multipliers]
    # The first and last convolutions are float32: half precision rounds a pixel by as much as
    # the noise of the last steps, and with three channels they cost little.
    h = Conv(config.channels, ops=ops, name="conv_in")(x_t).astype(config.dtype)
    skips = [h]
    for level, width in enumerate(widths):
        for i in range(config.blocks):
            h = layers.stage(h, width, f"down_{level}_{i}")
            skips.append(h)
        if level < len(widths) - 1:
            h = layers.down(h, width, f"down_{level}")
            skips.append(h)

    h = layers.block(h, widths[-1], "middle_0_block")
    if config.middle_attention:
        h = layers.attend(h, "middle_attention")
    return layers.block(h, widths[-1], "middle_1_block"), skips, layers


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
        h, skips, layers = encode(config, ops, x_t, t, conditioning, train=train)
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        for level in reversed(range(len(widths))):
            for i in range(config.blocks + 1):
                h = layers.stage(h, widths[level], f"up_{level}_{i}", skips.pop())
            if level:
                h = layers.up(h, widths[level], f"up_{level}")

        h = GroupNorm(activation="swish", **layers.norm, ops=ops, name="norm_out")(h)
        return Conv(self.out_channels, kernel_init=zeros, ops=ops, name="conv_out")(h)
