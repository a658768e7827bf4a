"""The first half of the U-Net with a head for the whole picture, as a classifier needs it.

Dhariwal & Nichol 2021, section 4, guide by such a network. Theirs ends in attention pooling; here
the features of all pixels are averaged.
"""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddpm_jax.models.conditioning import NO_CONDITIONING, require_taken
from ddpm_jax.models.layers import Dense, GroupNorm, zeros
from ddpm_jax.models.unet import UNetConfig, encode
from ddpm_jax.ops import Operations
from ddpm_jax.typing import Conditioning, Timesteps


@dataclass(frozen=True, kw_only=True)
class UNetEncoderConfig(UNetConfig):
    """The U-Net's way down and middle, for diffusion.objective classification."""

    kind: ClassVar[str] = "unet_encoder"

    @property
    def may_take(self) -> tuple[str, ...]:
        return ()


class UNetEncoder(nn.Module):
    """Says `out_channels` values of the whole picture, the same at each pixel; zero at first.

    All else is as in UNet: x_t is [B, H, W, C] float32, t in 1…T ([B] or a scalar, fractional too),
    labels [B] in 0…num_classes, and the result is float32, [B, H, W, out_channels].
    """

    config: UNetEncoderConfig
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
        require_taken(self, conditioning)
        h, _, layers = encode(self.config, self.ops, x_t, t, conditioning, train=train)
        h = GroupNorm(activation="swish", **layers.norm, ops=self.ops, name="norm_out")(h)
        h = h.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        h = Dense(self.out_channels, kernel_init=zeros, ops=self.ops, name="out")(h)
        return jnp.broadcast_to(h, (*x_t.shape[:-1], self.out_channels))
