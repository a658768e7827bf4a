"""The conditional MLP of the 2-D tutorial: a table of the time scales each layer's output."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.errors import require_whole
from ddpm_jax.models.conditioning import NO_CONDITIONING, label_embedding, require_taken
from ddpm_jax.models.layers import Dense, zeros
from ddpm_jax.models.settings import MOST_FEATURES, MOST_LAYERS, NetworkConfig
from ddpm_jax.ops import Operations
from ddpm_jax.typing import Conditioning, Examples, Labels, Timesteps


@dataclass(frozen=True, kw_only=True)
class MlpConfig(NetworkConfig):
    """An MLP whose layers are scaled by a table of T times; the defaults are for points."""

    kind: ClassVar[str] = "mlp"
    width: int = 128
    """Features of each hidden layer."""
    layers: int = 3
    """Hidden layers."""

    def __post_init__(self):
        super().__post_init__()
        require_whole("model.width", self.width, most=MOST_FEATURES)
        require_whole("model.layers", self.layers, most=MOST_LAYERS)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Takes examples of any shape: it flattens them."""


class Mlp(nn.Module):
    """Predicts `out_channels` values in place of the last axis of x_t, zero at initialisation.

    x_t is [B, *shape] float32, flattened; t in 1…T ([B] or a scalar), T being `timesteps`; labels
    [B] in 0…num_classes; label num_classes, or None for all, means "no class". The result is
    float32, [B, *shape[:-1], out_channels]. `layers` times, h becomes softplus(gain · (W h + b)),
    with a gain for each of `width` features from a learned table of T rows, to which a class adds
    its own. A time beyond T gives NaN; a fractional time raises ValueError. Three layers of 128
    have 72,066 parameters for points and T = 100. Raises ValueError for conditioning that it does
    not take.
    """

    config: MlpConfig
    out_channels: int
    timesteps: int
    ops: Operations = Operations()
    fractional_times: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()

    @nn.compact
    def __call__(
        self,
        x_t: Examples,
        t: Timesteps,
        conditioning: Conditioning = NO_CONDITIONING,
        *,
        train: bool,
    ) -> Examples:
        del train  # Nothing in this network is random.
        config = self.config
        require_taken(self, conditioning)
        h = x_t.reshape(len(x_t), -1)
        shape = (*x_t.shape[:-1], self.out_channels)
        for layer in range(config.layers):
            # Coordinates enter and leave in float32: half precision rounds them by as much as the
            # noise of the last steps.
            dtype = config.dtype if layer else jnp.float32
            h = Dense(config.width, dtype=dtype, ops=self.ops, name=f"layer_{layer}")(h)
            gain = self._gain(t, conditioning.labels, layer)
            h = self.ops.softplus(gain * h.astype(config.dtype))
        outputs = x_t[0].size // x_t.shape[-1] * self.out_channels
        return Dense(outputs, kernel_init=zeros, ops=self.ops, name="out")(h).reshape(shape)

    def _gain(self, t: Timesteps, labels: Labels | None, layer: int) -> jax.Array:
        config = self.config
        gain = nn.Embed(
            self.timesteps,
            config.width,
            embedding_init=nn.initializers.uniform(1.0),
            dtype=config.dtype,
            name=f"time_{layer}",
        )(jnp.atleast_1d(t) - 1)
        if not config.num_classes:
            return gain
        table = {"init": zeros, "dtype": config.dtype, "name": f"label_{layer}"}
        return gain + label_embedding(labels, config.num_classes, config.width, **table)
