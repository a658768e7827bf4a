"""The U-Net of "The Annotated Diffusion Model" (https://huggingface.co/blog/annotated-diffusion).

It follows Phil Wang's. Each level has two blocks, ResNet's (He et al. 2015) or ConvNeXt's (Liu et
al. 2022), and ends in linear attention (Shen et al. 2018); only the middle has full attention. The
defaults are the article's network for Fashion-MNIST: 2,996,315 parameters. A notebook on Oxford
Flowers 102 has two for 128x128 in colour, both with `attention_bias`: ConvNeXt blocks, dim 32,
multipliers 1 2 4 8, 14,733,783 parameters; and ResNet blocks, dim 128, multipliers 1 2 4,
32,009,619 parameters.

Differences: the notebook's ConvNeXt block overwrites its features with the time embedding, and its
linear attention takes the softmax of the keys over their features. Here the time is added, and the
softmax runs over the pixels, as in the article and in Shen et al. The last convolution and the
middle attention start at zero, as everywhere in this package.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.errors import require, require_whole
from ddpm_jax.models.conditioning import (
    NO_CONDITIONING,
    ConditionEmbedding,
    add_condition,
    require_taken,
)
from ddpm_jax.models.layers import (
    Conv,
    Dense,
    DepthwiseConv,
    Downsample,
    Dropout,
    GroupNorm,
    LinearAttention,
    SelfAttention,
    Upsample,
    zeros,
)
from ddpm_jax.models.settings import (
    MOST_FEATURES,
    NetworkConfig,
    check_sides,
    require_divisible,
    require_epsilon,
    require_multipliers,
)
from ddpm_jax.ops import Operations
from ddpm_jax.typing import Conditioning, Timesteps


@dataclass(frozen=True, kw_only=True)
class AnnotatedUNetConfig(NetworkConfig):
    """The Annotated Diffusion Model's U-Net; the defaults are its network for Fashion-MNIST."""

    kind: ClassVar[str] = "annotated_unet"
    dim: int = 28
    """Channels that the multipliers multiply; a quarter of the time embedding's."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `dim`; each level halves height and width."""
    block: Literal["resnet", "convnext"] = "convnext"
    """The kind of block; each level has two."""
    attention_bias: bool = False
    """Whether query, key and value of the linear attention have a bias."""
    norm_epsilon: float = 1e-5
    """What each normalisation adds to the variance; PyTorch's default, as in the article."""
    dropout: float = 0.0
    """Share of the features that each block drops in training."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self):
        super().__post_init__()
        require_whole("model.dim", self.dim, 4, MOST_FEATURES)
        require_multipliers(self.dim, self.multipliers)
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        require_epsilon(self.norm_epsilon)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        require_divisible(shape, self.multipliers)


class ResNetBlock(nn.Module):
    """Adds to x two convolutions of x, each followed by GroupNorm in 8 groups and SiLU.

    x is [B, H, W, any]; condition is [B or 1, any], added between the two, or None. The result is
    [B, H, W, channels]. `dropout` is the rate to apply now: 0 when not training.
    `epsilon` is that of the normalisations.
    """

    channels: int
    dropout: float
    epsilon: float
    dtype: DTypeLike
    ops: Operations

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], condition: Float[Array, "b features"] | None
    ) -> Float[Array, "B H W channels"]:
        common: dict[str, Any] = {"dtype": self.dtype, "ops": self.ops}

        def convolve(h: jax.Array, i: int) -> jax.Array:
            h = Conv(self.channels, **common, name=f"conv_{i}")(h)
            norm = GroupNorm(8, self.epsilon, "swish", **common, name=f"norm_{i}")
            return norm(h)

        h = convolve(x, 0)
        if condition is not None:
            shift = Dense(self.channels, **common, name="condition")(self.ops.swish(condition))
            h = add_condition(h, shift)
        h = Dropout(self.dropout, self.ops)(h)
        return _shortcut(x, self.channels, **common) + convolve(h, 1)


class ConvNextBlock(nn.Module):
    """Adds to x a depthwise 7x7 convolution and two 3x3 ones, with twice the channels in between.

    x is [B, H, W, any]; condition is [B or 1, any], added after the first convolution, or None. The
    result is [B, H, W, channels]. Features are normalised in one group before each 3x3
    convolution. `dropout` is the rate to apply now: 0 when not training.
    `epsilon` is that of the normalisations.
    """

    channels: int
    dropout: float
    epsilon: float
    dtype: DTypeLike
    ops: Operations

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], condition: Float[Array, "b features"] | None
    ) -> Float[Array, "B H W channels"]:
        common: dict[str, Any] = {"dtype": self.dtype, "ops": self.ops}
        gelu = self.ops.gelu
        h = DepthwiseConv(**common, name="depthwise")(x)
        if condition is not None:
            shift = Dense(x.shape[-1], **common, name="condition")(gelu(condition))
            h = add_condition(h, shift)
        h = GroupNorm(1, self.epsilon, **common, name="norm_0")(h)
        h = gelu(Conv(2 * self.channels, **common, name="conv_0")(h))
        h = GroupNorm(1, self.epsilon, **common, name="norm_1")(h)
        h = Dropout(self.dropout, self.ops)(h)
        h = Conv(self.channels, **common, name="conv_1")(h)
        return _shortcut(x, self.channels, **common) + h


BLOCKS: dict[str, type[ResNetBlock | ConvNextBlock]] = {
    "resnet": ResNetBlock,
    "convnext": ConvNextBlock,
}


def _shortcut(x: jax.Array, channels: int, **common: Any) -> jax.Array:
    """Brings x to the block's channels; called inside a module."""
    return x if x.shape[-1] == channels else Dense(channels, **common, name="shortcut")(x)


class AnnotatedUNet(nn.Module):
    """Predicts `out_channels` values per pixel, zero at initialisation.

    x_t is [B, H, W, C] float32, t in 1…T ([B] or a scalar, fractional too), labels [B] in
    0…num_classes; label num_classes, or None for all, means "no class". The result is float32,
    [B, H, W, out_channels]. Level i has dim · multipliers[i] channels and sides of 1/2^i; `block`
    is a row of BLOCKS. Each level but the first has a skip connection. One more block at full size
    ends the network, and it does not see the time. Needs the rng 'dropout' only in training with
    dropout > 0. Raises ValueError for sides that the levels don't halve, and for conditioning that
    it does not take.
    """

    config: AnnotatedUNetConfig
    out_channels: int
    ops: Operations = Operations()
    fractional_times: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ()

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
        check_sides(x_t.shape, config.multipliers)
        common: dict[str, Any] = {"dtype": config.dtype, "ops": ops}
        condition = ConditionEmbedding(
            4 * config.dim, config.num_classes, "gelu", **common, name="condition"
        )(t, conditioning.labels)
        widths = [config.dim * multiplier for multiplier in config.multipliers]
        levels = range(len(widths))

        def maybe_remat(kind: Any) -> Any:
            return nn.remat(kind) if config.remat else kind

        def block(h: jax.Array, width: int, given: jax.Array | None, name: str) -> jax.Array:
            rate = config.dropout if train else 0.0
            kind = maybe_remat(BLOCKS[config.block])
            return kind(width, rate, config.norm_epsilon, **common, name=name)(h, given)

        def level(h: jax.Array, width: int, place: str) -> jax.Array:
            h = block(h, width, condition, f"{place}_block_0")
            h = block(h, width, condition, f"{place}_block_1")
            given = {"bias": config.attention_bias, "epsilon": config.norm_epsilon, **common}
            return maybe_remat(LinearAttention)(**given, name=f"{place}_attention")(h)

        # The first and last convolutions are float32: half precision would round the pixels.
        h = Conv(config.dim // 3 * 2, side=7, ops=ops, name="conv_in")(x_t).astype(config.dtype)
        skips = []
        for i in levels:
            h = level(h, widths[i], f"down_{i}")
            skips.append(h)
            if i != levels[-1]:
                h = Downsample(**common, name=f"down_{i}")(h)

        h = block(h, widths[-1], condition, "middle_block_0")
        full = {"heads": 4, "head_channels": 32, "bias": False, "groups": 1, **common}
        full["epsilon"] = config.norm_epsilon
        h = maybe_remat(SelfAttention)(**full, name="middle_attention")(h)
        h = block(h, widths[-1], condition, "middle_block_1")

        for i in reversed(levels[1:]):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = level(h, widths[i - 1], f"up_{i}")
            h = Upsample(**common, name=f"up_{i}")(h)

        h = block(h, config.dim, None, "out_block")
        return Dense(self.out_channels, kernel_init=zeros, ops=ops, name="conv_out")(h)
