"""Networks, by the name a config gives them."""

import flax.linen as nn

from ddpm_jax.models.annotated_unet import AnnotatedUNet
from ddpm_jax.models.mlp import Mlp
from ddpm_jax.models.small_unet import SmallUNet
from ddpm_jax.models.step_unet import StepUNet
from ddpm_jax.models.unet import UNet

MODELS: dict[str, type[nn.Module]] = {
    "annotated_unet": AnnotatedUNet,
    "mlp": Mlp,
    "small_unet": SmallUNet,
    "step_unet": StepUNet,
    "unet": UNet,
}
