"""One large picture, seen as a whole: `single_image.py` with three more levels.

The network of `single_image.py` sees 100 pixels across. Of flower.jpg at its own 427×640 it learns
the texture but not the places. Three more levels of 64 channels see 800 pixels across, and cost
little because they are small. The learning rate is ten times as large, so 1,000 steps are enough.
"""

import runpy
from pathlib import Path

from ddpm_jax.config import Config, override

_BASE = runpy.run_path(str(Path(__file__).with_name("single_image.py")))


def get_config() -> Config:
    return override(
        _BASE["get_config"](),
        {
            "model.channels": (8, 16, 32, 64, 64, 64, 64),
            "optimizer.learning_rate": 1e-3,
            "train.steps": 1_000,
            "train.log_every": 20,
            "train.save_every": 200,
            "train.preview_every": 500,
        },
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = _BASE["SMOKE"]
