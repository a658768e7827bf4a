"""How a network is given the time and a class."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddpm_jax.errors import UserError
from ddpm_jax.models.layers import Dense
from ddpm_jax.ops import Operations
from ddpm_jax.typing import Conditioning, Labels, Timesteps

NO_CONDITIONING = Conditioning()


def require_taken(network: Any, conditioning: Conditioning) -> None:
    """Raises UserError unless the conditioning has all that the network takes, and nothing else.

    The network's `takes` names those parts; labels are taken, and may be missing, where it has
    classes.
    """
    if conditioning.labels is not None and not network.config.num_classes:
        raise UserError(
            "conditioning.labels were given to a network without classes; set model.num_classes"
        )
    for name, part in conditioning._asdict().items():
        if name == "labels":
            continue
        if part is not None and name not in network.takes:
            raise UserError(f"conditioning.{name} was given to a network that does not take it")
        if part is None and name in network.takes:
            raise UserError(f"conditioning.{name} is missing: the network takes one; give it")


TimeEmbedding = Literal["ho", "openai"]


def timestep_embedding(
    t: Timesteps, dim: int, style: TimeEmbedding = "ho"
) -> Float[Array, "B {dim}"]:
    """Returns sines, then cosines, of t at dim//2 frequencies from 1 down to 1/10000.

    t is any number, [B] or a scalar (then B is 1). The result is float32; if dim is odd, its last
    entry is zero. In the style `openai` the cosines come first, and the frequencies end one spacing
    above 1/10000. Raises ValueError for a dim below 4, which has no second frequency. Source:
    Vaswani et al. 2017, section 3.5, with the spacing of Ho et al.'s code.
    """
    if dim < 4:
        raise ValueError(f"a time embedding needs at least 4 dimensions, not {dim}")
    half = dim // 2
    spacing = -math.log(10_000) / (half if style == "openai" else half - 1)
    frequencies = jnp.exp(jnp.arange(half, dtype=jnp.float32) * spacing)
    angles = jnp.atleast_1d(t).astype(jnp.float32)[:, None] * frequencies
    waves = [jnp.sin(angles), jnp.cos(angles)]
    embedding = jnp.concatenate(waves[::-1] if style == "openai" else waves, axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def label_embedding(
    labels: Labels | None,
    num_classes: int,
    features: int,
    *,
    name: str,
    init: nn.initializers.Initializer | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "b {features}"]:
    """Returns each label's row of a learned table; called inside a compact module.

    The table has a row for each class, and a last one for label num_classes, "no class". If labels
    are None, the result is that last row, and b is 1. `init` is a standard normal if None.
    """
    labels = jnp.array([num_classes]) if labels is None else labels
    init = init or nn.initializers.normal(1.0)
    return nn.Embed(num_classes + 1, features, embedding_init=init, dtype=dtype, name=name)(labels)


class ConditionEmbedding(nn.Module):
    """Embeds the time, and the class if there are classes, into one vector [B, features].

    t is in 1…T, [B] or a scalar, and may be fractional; labels are as in `label_embedding`. The
    noise level of an image beside x_t, in 0…T, is embedded too if there is one. The result has
    batch 1 if t is a scalar and the others are None.
    `style` is that of `timestep_embedding`, and `time_scale` multiplies the time before it.
    """

    features: int
    num_classes: int
    activation: Literal["swish", "gelu"]
    dtype: DTypeLike
    ops: Operations
    style: TimeEmbedding = "ho"
    time_scale: float = 1.0

    @nn.compact
    def __call__(
        self, t: Timesteps, labels: Labels | None, image_noise: Timesteps | None = None
    ) -> Float[Array, "B features"]:
        def embedded(level: Timesteps, name: str) -> jax.Array:
            h = timestep_embedding(level * self.time_scale, self.features // 4, self.style)
            h = Dense(self.features, dtype=self.dtype, ops=self.ops, name=f"{name}_in")(h)
            h = getattr(self.ops, self.activation)(h)
            return Dense(self.features, dtype=self.dtype, ops=self.ops, name=f"{name}_out")(h)

        # Published weights count the time from 0. Ours is 0 for clean data, which no network sees.
        h = embedded(t - 1, "time")
        if image_noise is not None:
            h += embedded(image_noise, "image_noise")
        if self.num_classes:
            h += label_embedding(
                labels, self.num_classes, self.features, dtype=self.dtype, name="label"
            )
        return h


def add_condition(h: jax.Array, shift: jax.Array) -> jax.Array:
    """Adds one value per channel, [B or 1, C], to all pixels of h, [B, H, W, C]."""
    return h + shift[:, None, None, :]
