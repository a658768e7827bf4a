"""The small U-Net of a T = 10 classroom exercise on MNIST (document 002): the time is a picture.

A U-Net as Ronneberger et al. 2015 drew it (max-pooling, 2x2 transposed convolutions, ReLU, no
normalisation), which is told the time by one more plane beside x_t. The document builds that plane
and then leaves it out of the network; here the first convolution sees it. Its closing exercise, to
draw a digit that was asked for, it leaves to the reader: here each class adds a bias of its own to
the first convolution of each level, which is what a constant plane for each class would do, and at
all sizes. The last convolution starts at zero, as everywhere in this package, not at He's values.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.models.layers import convolution
from ddpm_jax.models.unet import check_inputs
from ddpm_jax.typing import Conditioning, Labels, Timesteps

# Keeps the size of what passes a ReLU (He et al. 2015, equation 10).
_he = nn.initializers.he_normal()


def max_pool_2x2(x: Float[Array, "B 2*H 2*W C"]) -> Float[Array, "B H W C"]:
    """Returns the largest of each 2x2 pixels.

    By reshaping: the gradient of a windowed maximum is a scatter, many times slower on a CPU.
    """
    return reduce(x, "b (y p) (x q) c -> b y x c", "max", p=2, q=2)


class Upsample(nn.Module):
    """Gives each pixel a learned 2x2 patch: a 2x2 transposed convolution of stride 2, then ReLU.

    x is [B, H, W, any], the result [B, 2H, 2W, channels]. Patches do not overlap, so it is one
    matrix product.
    """

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W channels"]:
        patches = nn.DenseGeneral(
            (2, 2, self.channels), use_bias=False, kernel_init=_he, dtype=self.dtype, name="patch"
        )(x)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        patches = nn.relu(patches + bias.astype(patches.dtype))
        return rearrange(patches, "b y x p q c -> b (y p) (x q) c")


class StepUNet(nn.Module):
    """Predicts one value per pixel and channel of x_t, zero at initialisation.

    x_t is [B, H, W, C] float32, t in 1…T ([B] or a scalar), T being `timesteps`; labels [B] in
    0…num_classes where num_classes, or None for all, means "no class"; the result is float32 with
    the shape of x_t. Level i has channels · multipliers[i] channels and sides of 1/2^i; the
    defaults are the document's 32, 64 and 128. The plane of the time is relu(w t/T + b) with a w
    and a b for each pixel, which fix the picture's size once there are parameters. Raises
    ValueError for sides that `unet_divisor` does not divide, and for labels where num_classes is 0.
    """

    timesteps: int
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    num_classes: int = 0
    dtype: DTypeLike = "float32"

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
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        levels = range(len(widths))

        def convolve(
            h: jax.Array, width: int, name: str, *, first: bool, dtype: DTypeLike = self.dtype
        ) -> jax.Array:
            options = {"kernel_init": _he, "conv_general_dilated": convolution, "dtype": dtype}
            h = nn.Conv(width, (3, 3), **options, name=name)(h)
            if first and self.num_classes:
                h += self._class_bias(labels, width, f"{name}_label").astype(h.dtype)
            return nn.relu(h)

        # As in `unet`, what touches pixels is float32: it costs little, and they keep their digits.
        h = jnp.concatenate([x_t, self._time_plane(x_t, t)], axis=-1)
        skips = []
        for level in levels:
            dtype = self.dtype if level else jnp.float32
            h = convolve(h, widths[level], f"down_{level}_0", first=True, dtype=dtype)
            h = convolve(h, widths[level], f"down_{level}_1", first=False)
            if level != levels[-1]:
                skips.append(h)
                h = max_pool_2x2(h)
        for level in reversed(levels[:-1]):
            h = Upsample(widths[level], self.dtype, name=f"up_{level}")(h)
            h = jnp.concatenate([skips.pop(), h], axis=-1)
            # One convolution fewer at full size, where it costs the most.
            for i in range(2 if level else 1):
                h = convolve(h, widths[level], f"up_{level}_{i}", first=i == 0)
        zeros = nn.initializers.zeros
        return nn.Dense(x_t.shape[-1], kernel_init=zeros, dtype=jnp.float32, name="out")(h)

    def _time_plane(self, x_t: jax.Array, t: Timesteps) -> Float[Array, "B H W 1"]:
        batch, height, width, _ = x_t.shape
        share = jnp.broadcast_to(t, (batch,)).astype(jnp.float32)[:, None] / self.timesteps
        plane = nn.Dense(height * width, kernel_init=_he, dtype=jnp.float32, name="time")
        return rearrange(nn.relu(plane(share)), "b (y x) -> b y x 1", y=height)

    def _class_bias(
        self, labels: Labels | None, width: int, name: str
    ) -> Float[Array, "b 1 1 {width}"]:
        labels = jnp.array([self.num_classes]) if labels is None else labels
        init = nn.initializers.normal(1.0)
        biases = nn.Embed(self.num_classes + 1, width, embedding_init=init, name=name)(labels)
        return biases[:, None, None, :]
