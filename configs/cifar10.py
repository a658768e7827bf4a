"""CIFAR-10 by the paper's recipe (Ho et al. 2020, appendix B, and its code).

The paper reaches FID 3.17. Its other settings are the defaults: a linear schedule with T = 1,000,
Adam, EMA 0.9999, and sampling with σ² = β.
"""

from ddpm_jax.config import (
    Config,
    OptimizerConfig,
    SampleConfig,
    TfdsData,
    TrainConfig,
    UNetConfig,
)


def get_config() -> Config:
    return Config(
        data=TfdsData(name="cifar10", flip=True),
        model=UNetConfig(dropout=0.1),
        optimizer=OptimizerConfig(warmup=5_000),
        train=TrainConfig(keep_every=100_000, preview_every=10_000),
        # For all 1,000 steps; fewer are far better with `--sampler auto`.
        sample=SampleConfig(sampler="ddpm-beta"),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "model.channels": 8,
    "model.multipliers": (1, 2),
    "model.blocks": 1,
    "diffusion.timesteps": 20,
    "diffusion.schedule": "cosine",  # It ends in noise after 20 steps too.
    "train.steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.num": 16,
}
