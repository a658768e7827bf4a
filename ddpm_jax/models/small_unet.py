"""A U-Net small enough to learn one picture on a CPU, from a tutorial on DDPM in PyTorch.

It has the encoder and decoder of Ronneberger et al. 2015, and each level is given the time, as in
Ho et al. 2020.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.errors import require, require_whole
from ddpm_jax.models.conditioning import (
    NO_CONDITIONING,
    add_condition,
    label_embedding,
    require_taken,
    timestep_embedding,
)
from ddpm_jax.models.layers import Conv, Dense, Downsample, GroupNorm, Upsample, zeros
from ddpm_jax.models.settings import (
    MOST_FEATURES,
    NetworkConfig,
    divisor,
    require_epsilon,
    require_image,
)
from ddpm_jax.ops import Operations
from ddpm_jax.typing import Conditioning, Timesteps


@dataclass(frozen=True, kw_only=True)
class SmallUNetConfig(NetworkConfig):
    """A U-Net for one picture, small enough for a CPU; the defaults have 395,763 parameters."""

    kind: ClassVar[str] = "small_unet"
    channels: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of the picture's own size, then of each level; a level halves height and width."""
    time_dim: int = 16
    """Entries of the time's sinusoidal embedding."""
    groups: int = 4
    """Groups of channels that are normalised together; fewer if there are too few channels."""
    norm_epsilon: float = 1e-5
    """What each normalisation adds to the variance; PyTorch's default, as in the tutorial."""

    def __post_init__(self):
        super().__post_init__()
        need = "two to 16 whole numbers ≥ 1"
        require(2 <= len(self.channels) <= 16, "model.channels", self.channels, need)
        for channels in self.channels:
            require_whole("model.channels", channels, most=MOST_FEATURES)
        require_whole("model.time_dim", self.time_dim, 4, MOST_FEATURES)
        require_whole("model.groups", self.groups)
        require_epsilon(self.norm_epsilon)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for points; images of any size are padded as needed."""
        require_image(shape)


class TimeProjection(nn.Module):
    """Turns the embedded time `[b, time_dim]` into one value per channel, `[b, channels]`."""

    channels: int
    dtype: DTypeLike
    ops: Operations

    @nn.compact
    def __call__(self, embedding: Float[Array, "b D"]) -> Float[Array, "b channels"]:
        h = Dense(self.channels, dtype=self.dtype, ops=self.ops, name="in")(embedding)
        return Dense(self.channels, dtype=self.dtype, ops=self.ops, name="out")(self.ops.mish(h))


class SmallUNet(nn.Module):
    """Predicts `out_channels` values per pixel, zero at initialisation.

    x_t is [B, H, W, C] float32 of any sides, t in 1…T ([B] or a scalar, fractional too), labels [B]
    in 0…num_classes; label num_classes, or None for all, means "no class". The result is float32,
    [B, H, W, out_channels]. Level i works at 1/2^i of the sides, from channels[i] to
    channels[i + 1]. Sides that the levels don't halve are mirrored outwards, and the result is
    cropped. Each convolution is followed by Mish (Misra 2019), then by GroupNorm in at most
    `groups` groups. Raises ValueError for conditioning that it does not take.
    """

    config: SmallUNetConfig
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
        del train  # Nothing in this network is random.
        config, ops = self.config, self.ops
        require_taken(self, conditioning)
        channels, levels = config.channels, range(len(config.channels) - 1)
        common: dict[str, Any] = {"dtype": config.dtype, "ops": ops}
        embedding = timestep_embedding(t - 1, config.time_dim)
        if config.num_classes:
            embedding += label_embedding(
                conditioning.labels, config.num_classes, config.time_dim, name="label"
            )

        def normed(h: jax.Array, name: str) -> jax.Array:
            norm = GroupNorm(config.groups, config.norm_epsilon, **common, name=name)
            return norm(ops.mish(h))

        def block(h: jax.Array, width: int, name: str) -> jax.Array:
            return normed(Conv(width, **common, name=name)(h), f"{name}_norm")

        def timed(h: jax.Array, name: str) -> jax.Array:
            return add_condition(h, TimeProjection(h.shape[-1], **common, name=name)(embedding))

        # The first and last convolutions are float32: half precision would round the pixels.
        h = pad_to_multiple(x_t, divisor(channels))
        h = Conv(channels[0], ops=ops, name="conv_in")(h).astype(config.dtype)
        h = normed(h, "conv_in_norm")
        skips = []
        for level in levels:
            h = timed(h, f"down_{level}_time")
            h = block(h, channels[level + 1], f"down_{level}_0")
            h = block(h, channels[level + 1], f"down_{level}_1")
            skips.append(h)
            h = normed(Downsample(**common, name=f"down_{level}")(h), f"down_{level}_norm")
        for level in reversed(levels):
            h = normed(Upsample(**common, name=f"up_{level}")(h), f"up_{level}_norm")
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = timed(h, f"up_{level}_time")
            h = block(h, channels[level + 1], f"up_{level}_0")
            h = block(h, channels[level], f"up_{level}_1")
        h = Conv(self.out_channels, kernel_init=zeros, ops=ops, name="conv_out")(h)
        return h[:, : x_t.shape[1], : x_t.shape[2]]


def pad_to_multiple(x: Float[Array, "B H W C"], divisor: int) -> Float[Array, "B h w C"]:
    """Pads the far ends up to a multiple of divisor, by mirroring.

    Mirrored noise is as rough as the noise; a repeated edge would be smooth.
    """
    fill = [(0, -side % divisor) for side in x.shape[1:3]]
    return jnp.pad(x, [(0, 0), *fill, (0, 0)], mode="symmetric")
