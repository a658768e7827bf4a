"""Networks, by the name a config gives them."""

import flax.linen as nn

from ddpm_jax.models.unet import UNet

MODELS: dict[str, type[nn.Module]] = {"unet": UNet}
