"""The U-Net of Ho et al. 2020, appendix B, as in their TensorFlow code."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.models.layers import (
    Activation,
    GroupNorm,
    SelfAttention,
    conv3x3,
    dense,
    swish,
    timestep_embedding,
    upsample_nearest,
)
from ddpm_jax.typing import Conditioning, Labels, Timesteps


def unet_divisor(multipliers: tuple[int, ...]) -> int:
    """Returns the number that must divide an image's sides: 2 for each level after the first."""
    return 2 ** (len(multipliers) - 1)


def check_inputs(
    x_t: jax.Array, labels: jax.Array | None, *, multipliers: tuple[int, ...], num_classes: int
) -> None:
    """Raises ValueError for labels without classes, and for sides that the levels don't halve."""
    if labels is not None and not num_classes:
        raise ValueError("labels were given to a U-Net without classes (num_classes = 0)")
    divisor = unet_divisor(multipliers)
    height, width = x_t.shape[1:3]
    if height % divisor or width % divisor:
        below, above = (
            "x".join(str(max(divisor, rounded(side) * divisor)) for side in (height, width))
            for rounded in (lambda side: side // divisor, lambda side: -(-side // divisor))
        )
        raise ValueError(
            f"a U-Net of {len(multipliers)} levels needs sides that {divisor} divides, "
            f"not {height}x{width}: the nearest are {below} and {above}"
        )


class Condition(nn.Module):
    """Embeds the time, and the class where there are classes, into one vector [B, features].

    t is in 1…T, [B] or a scalar; labels are [B] in 0…num_classes, the last one meaning "no class",
    as does None. The result has batch 1 where t is a scalar and labels are None.
    """

    features: int
    num_classes: int
    dtype: DTypeLike
    activation: Activation = swish

    @nn.compact
    def __call__(self, t: Timesteps, labels: Labels | None) -> Float[Array, "B features"]:
        # Published weights count the time from 0; ours is 0 for clean data, which no network sees.
        h = timestep_embedding(t - 1, self.features // 4)
        h = dense(self.features, dtype=self.dtype, name="time_in")(h)
        h = dense(self.features, dtype=self.dtype, name="time_out")(self.activation(h))
        if self.num_classes:
            labels = jnp.array([self.num_classes]) if labels is None else labels
            init = nn.initializers.normal(1.0)
            h += nn.Embed(
                self.num_classes + 1,
                self.features,
                embedding_init=init,
                dtype=self.dtype,
                name="label",
            )(labels)
        return h


class ResidualBlock(nn.Module):
    """Adds two convolutions of x, with the condition put in between them, to x.

    x is [B, H, W, any], condition [B or 1, any], the result [B, H, W, channels]. The second
    convolution is zero at initialisation. `dropout` is the rate to apply now: 0 when not training.
    """

    channels: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], condition: Float[Array, "b features"]
    ) -> Float[Array, "B H W channels"]:
        h = GroupNorm(dtype=self.dtype, activation=swish, name="norm_0")(x)
        h = conv3x3(self.channels, dtype=self.dtype, name="conv_0")(h)
        shift = dense(self.channels, dtype=self.dtype, name="condition")(swish(condition))
        h += shift[:, None, None, :]
        h = GroupNorm(dtype=self.dtype, activation=swish, name="norm_1")(h)
        h = nn.Dropout(self.dropout, deterministic=False)(h)
        h = conv3x3(self.channels, dtype=self.dtype, name="conv_1", zero=True)(h)
        if x.shape[-1] != self.channels:
            x = dense(self.channels, dtype=self.dtype, name="shortcut")(x)
        return x + h


class UNet(nn.Module):
    """Predicts one value per pixel and channel of x_t, zero at initialisation.

    x_t is [B, H, W, C] float32, t in 1…T ([B] or a scalar), labels [B] in 0…num_classes where
    num_classes, or None for all, means "no class"; the result is float32 with the shape of x_t.
    Level i has channels · multipliers[i] channels and sides of 1/2^i; there is attention where its
    LONGER side is in `attention`, so that a picture and its transpose meet the same network and
    16 never means more than 16x16 pixels. `remat` computes each block again in the backward pass,
    to save memory. Needs the rng 'dropout' only in training with dropout > 0. Raises ValueError
    for sides that `unet_divisor` does not divide, and for labels where num_classes is 0.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    heads: int = 1
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
        condition = Condition(4 * self.channels, self.num_classes, self.dtype, name="condition")(
            t, labels
        )
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        levels = range(len(widths))

        def block(h: jax.Array, width: int, name: str) -> jax.Array:
            kind = nn.remat(ResidualBlock) if self.remat else ResidualBlock
            rate = self.dropout if train else 0.0
            return kind(width, rate, self.dtype, name=name)(h, condition)

        def attend(h: jax.Array, name: str) -> jax.Array:
            kind = nn.remat(SelfAttention) if self.remat else SelfAttention
            return kind(self.heads, self.dtype, name=name)(h)

        def stage(h: jax.Array, width: int, place: str) -> jax.Array:
            h = block(h, width, f"{place}_block")
            return attend(h, f"{place}_attention") if max(h.shape[1:3]) in self.attention else h

        # The first and last convolutions are float32: half precision rounds a pixel by as much as
        # the noise of the last steps, and their cost is that of three channels.
        h = conv3x3(self.channels, dtype=jnp.float32, name="conv_in")(x_t).astype(self.dtype)
        skips = [h]
        for level in levels:
            for i in range(self.blocks):
                h = stage(h, widths[level], f"down_{level}_{i}")
                skips.append(h)
            if level != levels[-1]:
                h = conv3x3(widths[level], dtype=self.dtype, name=f"down_{level}", stride=2)(h)
                skips.append(h)

        h = block(h, widths[-1], "middle_0_block")
        h = attend(h, "middle_attention")
        h = block(h, widths[-1], "middle_1_block")

        for level in reversed(levels):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = stage(h, widths[level], f"up_{level}_{i}")
            if level:
                h = upsample_nearest(h)
                h = conv3x3(widths[level], dtype=self.dtype, name=f"up_{level}")(h)

        h = GroupNorm(activation=swish, name="norm_out")(h)
        return conv3x3(x_t.shape[-1], dtype=jnp.float32, name="conv_out", zero=True)(h)
