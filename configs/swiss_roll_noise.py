"""`swiss_roll.py` with a schedule that ends in noise: sampling starts where training ended.

β_T = 0.2 leaves ᾱ_T = 4e-5, so that x_T is what sampling starts from, and the samples lie about as
far from fresh points as other fresh points do. The learning rate falls to 0 along a cosine: the
last steps take out what Adam's 1e-3 would leave of the batches' noise.
"""

import dataclasses

from configs import swiss_roll
from ddpm_jax.config import Config


def get_config() -> Config:
    base = swiss_roll.get_config()
    return dataclasses.replace(
        base,
        diffusion=dataclasses.replace(base.diffusion, beta_T=0.2),
        optimizer=dataclasses.replace(base.optimizer, decay="cosine"),
    )


SMOKE = swiss_roll.SMOKE
