"""Networks, by the name that a config gives them; each file holds a network and its settings.

A network is a Flax module with the fields `config`, `out_channels`, `ops`, and `timesteps` (T) if
it needs that. It is called as `network(x_t, t, conditioning, train=…)`. Its class attribute
`fractional_times` says whether t may lie between two whole numbers. `takes` names what it must be
given in the conditioning besides labels: a field where the settings' `may_take` names anything. To
add a network, write its file and add its row.
"""

import dataclasses
import functools
import operator
from typing import TYPE_CHECKING, Any

import flax.linen as nn

from ddpm_jax.models.annotated_unet import AnnotatedUNet, AnnotatedUNetConfig
from ddpm_jax.models.lucidrains_unet import LucidrainsUNet, LucidrainsUNetConfig
from ddpm_jax.models.mlp import Mlp, MlpConfig
from ddpm_jax.models.settings import NetworkConfig
from ddpm_jax.models.small_unet import SmallUNet, SmallUNetConfig
from ddpm_jax.models.step_unet import StepUNet, StepUNetConfig
from ddpm_jax.models.unet import UNet, UNetConfig
from ddpm_jax.models.unet_encoder import UNetEncoder, UNetEncoderConfig
from ddpm_jax.ops import AUTO, Operations

MODELS: dict[str, type[nn.Module]] = {
    "annotated_unet": AnnotatedUNet,
    "lucidrains_unet": LucidrainsUNet,
    "mlp": Mlp,
    "small_unet": SmallUNet,
    "step_unet": StepUNet,
    "unet": UNet,
    "unet_encoder": UNetEncoder,
}


def settings_of(network: type[nn.Module]) -> type[NetworkConfig]:
    """Returns the class of the network's field `config`."""
    return _fields(network)["config"].type  # type: ignore[return-value]


def _fields(network: type[nn.Module]) -> dict[str, Any]:
    return {item.name: item for item in dataclasses.fields(network)}


if TYPE_CHECKING:
    ModelConfig = NetworkConfig
else:
    # The first row is the default: a config without `kind` means it.
    ModelConfig = functools.reduce(operator.or_, map(settings_of, (UNet, *MODELS.values())))


def make_network(
    config: NetworkConfig,
    *,
    out_channels: int,
    timesteps: int,
    takes: tuple[str, ...] = (),
    ops: Operations = AUTO,
) -> nn.Module:
    """Builds the network of these settings.

    `timesteps` is T, for those that need it; `takes` are parts of the conditioning that the
    settings say it may take.
    """
    network: Any = MODELS[config.kind]
    own = {"timesteps": timesteps, "takes": takes}
    given = {name: value for name, value in own.items() if name in _fields(network)}
    return network(config=config, out_channels=out_channels, ops=ops, **given)


__all__ = [
    "MODELS",
    "AnnotatedUNetConfig",
    "LucidrainsUNetConfig",
    "MlpConfig",
    "ModelConfig",
    "NetworkConfig",
    "SmallUNetConfig",
    "StepUNetConfig",
    "UNetConfig",
    "UNetEncoderConfig",
    "make_network",
    "settings_of",
]
