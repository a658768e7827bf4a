"""`swiss_roll.py` with a schedule that ends in noise, so that sampling starts where training ended.

β_T = 0.2 leaves ᾱ_T = 2e-5. The error that remains comes from the network and from the finite table
of points. So training takes three times as long, its learning rate falls to 0, the table holds
100,000 points, as a network learns the chance pattern of 10,000 too, and sampling takes σ² = β,
which keeps the spread of the data. Samples are then about as far from fresh points as fresh points
are from each other:

    ddpm evaluate RUN --data.table 1 --data.size 10000
"""

import runpy
from pathlib import Path

from ddpm_jax.config import Config, override

_BASE = runpy.run_path(str(Path(__file__).with_name("swiss_roll.py")))


def get_config() -> Config:
    return override(
        _BASE["get_config"](),
        {
            "data.size": 100_000,
            "diffusion.schedule.beta_T": 0.2,
            "optimizer.decay": "cosine",
            "train.steps": 234_000,
            "sample.sampler": "ddpm-beta",
        },
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = _BASE["SMOKE"]
