"""The U-Net of the annotated diffusion model (documents 004 and 001), after Phil Wang's.

Two blocks a level, ResNet's (He et al. 2015) or ConvNeXt's (Liu et al. 2022), each level ending in
linear attention (Shen et al. 2018), with full attention in the middle alone. The defaults are
document 004's network for Fashion-MNIST: 2,996,315 parameters. Document 001 has two for 128x128 in
colour, both with `attention_bias`: ConvNeXt blocks, dim 32, multipliers 1 2 4 8, 14,733,783
parameters; and ResNet blocks, dim 128, multipliers 1 2 4, 32,009,619.

Where we depart from the documents: 001's ConvNeXt block overwrites its features with the time
embedding, and its linear attention takes the keys' softmax over their features; here the time is
added, and the softmax runs over the pixels, as in 004 and in Shen et al. The last convolution and
the middle attention start at zero, as everywhere in this package.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.models.convolutions import DepthwiseConv, Double, Halve
from ddpm_jax.models.layers import (
    GroupNorm,
    SelfAttention,
    conv3x3,
    convolution,
    dense,
    kernel_init,
    swish,
)
from ddpm_jax.models.linear_attention import LinearAttention
from ddpm_jax.models.unet import Condition, check_inputs
from ddpm_jax.typing import Conditioning, Timesteps


class ResNetBlock(nn.Module):
    """Adds to x two convolutions of it, each normalised in 8 groups and then passed by SiLU.

    x is [B, H, W, any], condition [B or 1, any], put in between the two, or None; the result is
    [B, H, W, channels]. `dropout` is the rate to apply now: 0 when not training.
    """

    channels: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], condition: Float[Array, "b features"] | None
    ) -> Float[Array, "B H W channels"]:
        def convolve(h: jax.Array, i: int) -> jax.Array:
            h = conv3x3(self.channels, dtype=self.dtype, name=f"conv_{i}")(h)
            return GroupNorm(8, dtype=self.dtype, activation=swish, name=f"norm_{i}")(h)

        h = convolve(x, 0)
        if condition is not None:
            shift = dense(self.channels, dtype=self.dtype, name="condition")(swish(condition))
            h += shift[:, None, None, :]
        h = nn.Dropout(self.dropout, deterministic=False)(h)
        return _shortcut(x, self.channels, self.dtype) + convolve(h, 1)


class ConvNextBlock(nn.Module):
    """Adds to x a 7x7 convolution of each channel, then two 3x3 ones, twice as wide in between.

    x is [B, H, W, any], condition [B or 1, any], added to what the first convolution makes of x, or
    None; the result is [B, H, W, channels]. Normalised in one group before each 3x3 convolution.
    `dropout` is the rate to apply now: 0 when not training.
    """

    channels: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], condition: Float[Array, "b features"] | None
    ) -> Float[Array, "B H W channels"]:
        h = DepthwiseConv(dtype=self.dtype, name="depthwise")(x)
        if condition is not None:
            shift = dense(x.shape[-1], dtype=self.dtype, name="condition")(_gelu(condition))
            h += shift[:, None, None, :]
        h = GroupNorm(1, dtype=self.dtype, name="norm_0")(h)
        h = _gelu(conv3x3(2 * self.channels, dtype=self.dtype, name="conv_0")(h))
        h = GroupNorm(1, dtype=self.dtype, name="norm_1")(h)
        h = nn.Dropout(self.dropout, deterministic=False)(h)
        h = conv3x3(self.channels, dtype=self.dtype, name="conv_1")(h)
        return _shortcut(x, self.channels, self.dtype) + h


BLOCKS: dict[str, type[ResNetBlock | ConvNextBlock]] = {
    "resnet": ResNetBlock,
    "convnext": ConvNextBlock,
}


def _gelu(x: jax.Array) -> jax.Array:
    """By erf, where `jax.nn` takes erfc, twice as long; in float32, or 1 + erf would round away."""
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def _shortcut(x: jax.Array, channels: int, dtype: DTypeLike) -> jax.Array:
    """Brings x to the block's channels; called inside a module."""
    return x if x.shape[-1] == channels else dense(channels, dtype=dtype, name="shortcut")(x)


class AnnotatedUNet(nn.Module):
    """Predicts one value per pixel and channel of x_t, zero at initialisation.

    x_t is [B, H, W, C] float32, t in 1…T ([B] or a scalar), labels [B] in 0…num_classes where
    num_classes, or None for all, means "no class"; the result is float32 with the shape of x_t.
    Level i has dim · multipliers[i] channels and sides of 1/2^i; `block` is a row of BLOCKS. The
    levels come down at all sizes and go up from all but the first, whose skip would be the
    picture's own: after the last doubling there is one more block, which isn't told the time.
    `remat` computes each block and attention again in the backward pass, to save memory. Needs the
    rng 'dropout' only in training with dropout > 0. Raises ValueError for sides that 2 for each
    level after the first does not divide, and for labels where num_classes is 0.
    """

    dim: int = 28
    multipliers: tuple[int, ...] = (1, 2, 4)
    block: Literal["resnet", "convnext"] = "convnext"
    attention_bias: bool = False
    dropout: float = 0.0
    num_classes: int = 0
    dtype: DTypeLike = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x_t: Float[Array, "B H W C"],
        t: Timesteps,
        conditioning: Conditioning = Conditioning(),  # noqa: B008 (immutable)
        *,
        train: bool,
    ) -> Float[Array, "B H W C"]:
        labels = conditioning.labels
        check_inputs(x_t, labels, multipliers=self.multipliers, num_classes=self.num_classes)
        condition = Condition(
            4 * self.dim, self.num_classes, self.dtype, activation=_gelu, name="condition"
        )(t, labels)
        widths = [self.dim * multiplier for multiplier in self.multipliers]
        levels = range(len(widths))

        def again(kind: type[nn.Module]) -> type[nn.Module]:
            return nn.remat(kind) if self.remat else kind

        def block(h: jax.Array, width: int, told: jax.Array | None, name: str) -> jax.Array:
            rate = self.dropout if train else 0.0
            return again(BLOCKS[self.block])(width, rate, self.dtype, name=name)(h, told)

        def level(h: jax.Array, width: int, place: str) -> jax.Array:
            h = block(h, width, condition, f"{place}_block_0")
            h = block(h, width, condition, f"{place}_block_1")
            kind = again(LinearAttention)
            name = f"{place}_attention"
            return kind(bias=self.attention_bias, dtype=self.dtype, name=name)(h)

        # The first and last convolutions are float32, lest half precision round the pixels.
        conv_in = {"kernel_init": kernel_init, "conv_general_dilated": convolution}
        h = nn.Conv(self.dim // 3 * 2, (7, 7), **conv_in, name="conv_in")(x_t)
        h = h.astype(self.dtype)
        skips = []
        for i in levels:
            h = level(h, widths[i], f"down_{i}")
            skips.append(h)
            if i != levels[-1]:
                h = Halve(self.dtype, name=f"down_{i}")(h)

        h = block(h, widths[-1], condition, "middle_block_0")
        full = {"heads": 4, "head_channels": 32, "bias": False, "groups": 1, "dtype": self.dtype}
        h = again(SelfAttention)(**full, name="middle_attention")(h)
        h = block(h, widths[-1], condition, "middle_block_1")

        for i in reversed(levels[1:]):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = level(h, widths[i - 1], f"up_{i}")
            h = Double(self.dtype, name=f"up_{i}")(h)

        h = block(h, self.dim, None, "out_block")
        return dense(x_t.shape[-1], dtype=jnp.float32, name="conv_out", zero=True)(h)
