"""Networks, by the name a config gives them."""

import flax.linen as nn

from ddpm_jax.models.mlp import Mlp
from ddpm_jax.models.step_unet import StepUNet
from ddpm_jax.models.unet import UNet

MODELS: dict[str, type[nn.Module]] = {"mlp": Mlp, "step_unet": StepUNet, "unet": UNet}
