"""The small U-Net of a T = 10 classroom exercise on MNIST: the time is a plane beside x_t.

A U-Net as in Ronneberger et al. 2015 (max-pooling, 2x2 transposed convolutions, ReLU, no
normalisation). The exercise builds a plane of the time and then does not give it to the network;
here the first convolution sees it. Drawing a chosen digit is left to the reader of the exercise.
Here each class adds a bias of its own to the first convolution of each level: a constant plane for
each class would do the same, but only at the full size. The last convolution starts at zero, as
everywhere in this package, and not with He's initialisation.
"""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.errors import require_whole
from ddpm_jax.models.conditioning import (
    NO_CONDITIONING,
    add_condition,
    label_embedding,
    require_taken,
)
from ddpm_jax.models.layers import Conv, zeros
from ddpm_jax.models.settings import (
    MOST_FEATURES,
    NetworkConfig,
    check_sides,
    require_divisible,
    require_multipliers,
)
from ddpm_jax.ops import Operations
from ddpm_jax.typing import Conditioning, Timesteps

# Keeps the variance of activations behind a ReLU (He et al. 2015, equation 10).
_he = nn.initializers.he_normal()


@dataclass(frozen=True, kw_only=True)
class StepUNetConfig(NetworkConfig):
    """A small U-Net that sees the time as a plane beside x_t; the defaults are the exercise's."""

    kind: ClassVar[str] = "step_unet"
    channels: int = 32
    """Channels that the multipliers multiply."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `channels`; each level halves height and width."""

    def __post_init__(self):
        super().__post_init__()
        require_whole("model.channels", self.channels, most=MOST_FEATURES)
        require_multipliers(self.channels, self.multipliers)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        require_divisible(shape, self.multipliers)


def max_pool_2x2(x: Float[Array, "B 2*H 2*W C"]) -> Float[Array, "B H W C"]:
    """Returns the maximum of each block of 2x2 pixels.

    It reshapes, because the gradient of a windowed maximum is a scatter, many times slower on a
    CPU.
    """
    return reduce(x, "b (y p) (x q) c -> b y x c", "max", p=2, q=2)


class PatchUpsample(nn.Module):
    """Gives each pixel a learned 2x2 patch: a 2x2 transposed convolution of stride 2, then ReLU.

    x is [B, H, W, any], the result [B, 2H, 2W, channels]. The patches do not overlap, so it is one
    product of matrices.
    """

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W channels"]:
        patches = nn.DenseGeneral(
            (2, 2, self.channels), use_bias=False, kernel_init=_he, dtype=self.dtype, name="patch"
        )(x)
        bias = self.param("bias", zeros, (self.channels,))
        patches = nn.relu(patches + bias.astype(patches.dtype))
        return rearrange(patches, "b y x p q c -> b (y p) (x q) c")


class StepUNet(nn.Module):
    """Predicts `out_channels` values per pixel, zero at initialisation.

    x_t is [B, H, W, C] float32, t in 1…T ([B] or a scalar, fractional too), T being `timesteps`;
    labels [B] in 0…num_classes; label num_classes, or None for all, means "no class". The result is
    float32, [B, H, W, out_channels]. Level i has channels · multipliers[i] channels and sides of
    1/2^i. The plane of the time is relu(w t/T + b) with a w and a b for each pixel, so the
    parameters fix the size of the images. Raises ValueError for sides that the levels don't halve,
    and for conditioning that it does not take.
    """

    config: StepUNetConfig
    out_channels: int
    timesteps: int
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
        config = self.config
        require_taken(self, conditioning)
        check_sides(x_t.shape, config.multipliers)
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        levels = range(len(widths))

        def convolve(
            h: jax.Array, width: int, name: str, *, first: bool, dtype: DTypeLike = config.dtype
        ) -> jax.Array:
            h = Conv(width, kernel_init=_he, dtype=dtype, ops=self.ops, name=name)(h)
            if first and config.num_classes:
                table = f"{name}_label"
                bias = label_embedding(conditioning.labels, config.num_classes, width, name=table)
                h = add_condition(h, bias.astype(h.dtype))
            return nn.relu(h)

        # The first and last layers are float32, as in `unet`: it costs little and loses no digits.
        h = jnp.concatenate([x_t, self._time_plane(x_t, t)], axis=-1)
        skips = []
        for level in levels:
            dtype = config.dtype if level else jnp.float32
            h = convolve(h, widths[level], f"down_{level}_0", first=True, dtype=dtype)
            h = convolve(h, widths[level], f"down_{level}_1", first=False)
            if level != levels[-1]:
                skips.append(h)
                h = max_pool_2x2(h)
        for level in reversed(levels[:-1]):
            h = PatchUpsample(widths[level], config.dtype, name=f"up_{level}")(h)
            h = jnp.concatenate([skips.pop(), h], axis=-1)
            # Full size has one convolution fewer, because it costs the most there.
            for i in range(2 if level else 1):
                h = convolve(h, widths[level], f"up_{level}_{i}", first=i == 0)
        return nn.Dense(self.out_channels, kernel_init=zeros, dtype=jnp.float32, name="out")(h)

    def _time_plane(self, x_t: jax.Array, t: Timesteps) -> Float[Array, "B H W 1"]:
        batch, height, width, _ = x_t.shape
        share = jnp.broadcast_to(t, (batch,)).astype(jnp.float32)[:, None] / self.timesteps
        plane = nn.Dense(height * width, kernel_init=_he, dtype=jnp.float32, name="time")
        return rearrange(nn.relu(plane(share)), "b (y x) -> b y x 1", y=height)
