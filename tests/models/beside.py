"""A network of a kind that the package has not: it takes an image beside x_t."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from ddpm_jax.models.conditioning import require_taken
from ddpm_jax.models.layers import Conv
from ddpm_jax.models.settings import NetworkConfig
from ddpm_jax.ops import AUTO, Operations


@dataclass(frozen=True, kw_only=True)
class BesideConfig(NetworkConfig):
    kind: ClassVar[str] = "beside"
    width: int = 4


class Beside(nn.Module):
    config: BesideConfig
    out_channels: int
    ops: Operations = AUTO
    fractional_times: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("image", "image_noise")

    @nn.compact
    def __call__(self, x_t, t, conditioning, *, train):
        require_taken(self, conditioning)
        noise = jnp.broadcast_to(conditioning.image_noise, (len(x_t),))[:, None, None, None]
        h = jnp.concatenate([x_t, conditioning.image + 0.01 * noise], axis=-1)
        h = self.ops.swish(Conv(self.config.width, ops=self.ops, name="in")(h))
        return Conv(self.out_channels, ops=self.ops, name="out")(h)
