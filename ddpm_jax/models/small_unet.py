"""A U-Net small enough to learn one picture on a CPU, from a tutorial on DDPM in PyTorch.

It is the network of document 000: the encoder and decoder of Ronneberger et al. 2015, every level
of which is told the time, as Ho et al. 2020 tell theirs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.models.convolutions import Double, Halve
from ddpm_jax.models.layers import GroupNorm, conv3x3, dense, timestep_embedding
from ddpm_jax.typing import Conditioning, Labels, Timesteps


def small_unet_divisor(channels: tuple[int, ...]) -> int:
    """Returns what the sides are padded to a multiple of: 2 for each level of the network."""
    return 2 ** (len(channels) - 1)


def mish(x: jax.Array) -> jax.Array:
    """Returns x tanh(log(1 + eˣ)) (Misra 2019, equation 1), with one exponential in place of three.

    tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2); beyond 20 that is 1 to every digit.
    """
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


class TimeProjection(nn.Module):
    """Turns the time's table entry `[b, time_dim]` into one value a channel, `[b, 1, 1, C]`."""

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, table: Float[Array, "b D"]) -> Float[Array, "b 1 1 C"]:
        h = dense(self.channels, dtype=self.dtype, name="in")(table)
        h = dense(self.channels, dtype=self.dtype, name="out")(mish(h))
        return h[:, None, None, :]


class SmallUNet(nn.Module):
    """Predicts one value per pixel and channel of x_t, zero at initialisation.

    x_t is [B, H, W, C] float32 of any sides, t in 1…T ([B] or a scalar), labels [B] in
    0…num_classes where num_classes, or None for all, means "no class"; the result is float32 with
    the shape of x_t. Level i works at 1/2^i of the sides, from channels[i] to channels[i + 1];
    sides that `small_unet_divisor` does not divide are mirrored outwards, and the result is cropped
    back. Each convolution is followed by Mish (Misra 2019), then by GroupNorm in at most `groups`
    groups. The time is a sinusoidal table of `time_dim` entries. Raises ValueError for labels where
    num_classes is 0.
    """

    channels: tuple[int, ...] = (8, 16, 32, 64)
    time_dim: int = 16
    groups: int = 4
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
        del train  # nothing in this network is random
        table = self._table(t, labels)
        levels = range(len(self.channels) - 1)

        def normed(h: jax.Array, name: str) -> jax.Array:
            return GroupNorm(self.groups, dtype=self.dtype, name=name)(mish(h))

        def block(h: jax.Array, width: int, name: str) -> jax.Array:
            return normed(conv3x3(width, dtype=self.dtype, name=name)(h), f"{name}_norm")

        def told(h: jax.Array, name: str) -> jax.Array:
            return h + TimeProjection(h.shape[-1], self.dtype, name=name)(table)

        # The first and last convolutions are float32, lest half precision round the pixels.
        h = _pad(x_t, small_unet_divisor(self.channels))
        h = conv3x3(self.channels[0], dtype=jnp.float32, name="conv_in")(h).astype(self.dtype)
        h = normed(h, "conv_in_norm")
        skips = []
        for level in levels:
            h = told(h, f"down_{level}_time")
            h = block(h, self.channels[level + 1], f"down_{level}_0")
            h = block(h, self.channels[level + 1], f"down_{level}_1")
            skips.append(h)
            h = normed(Halve(self.dtype, name=f"down_{level}")(h), f"down_{level}_norm")
        for level in reversed(levels):
            h = normed(Double(self.dtype, name=f"up_{level}")(h), f"up_{level}_norm")
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = told(h, f"up_{level}_time")
            h = block(h, self.channels[level + 1], f"up_{level}_0")
            h = block(h, self.channels[level], f"up_{level}_1")
        h = conv3x3(x_t.shape[-1], dtype=jnp.float32, name="conv_out", zero=True)(h)
        return h[:, : x_t.shape[1], : x_t.shape[2]]

    def _table(self, t: Timesteps, labels: Labels | None) -> Float[Array, "b D"]:
        if labels is not None and not self.num_classes:
            raise ValueError("labels were given to a U-Net without classes (num_classes = 0)")
        table = timestep_embedding(t - 1, self.time_dim)
        if not self.num_classes:
            return table
        labels = jnp.array([self.num_classes]) if labels is None else labels
        init = nn.initializers.normal(1.0)
        return table + nn.Embed(
            self.num_classes + 1, self.time_dim, embedding_init=init, name="label"
        )(labels)


def _pad(x: Float[Array, "B H W C"], divisor: int) -> Float[Array, "B h w C"]:
    """Fills the far ends up to a multiple of divisor.

    By mirroring, which leaves noise as rough as it was: repeating the edge would comb it.
    """
    fill = [(0, -side % divisor) for side in x.shape[1:3]]
    return jnp.pad(x, [(0, 0), *fill, (0, 0)], mode="symmetric")
