"""The second stage of a CIFAR-10 cascade: it enlarges 16×16 pictures to 32×32 (Ho et al. 2021).

Its base is `ddpm train cifar10 --data.image_size 16 16 --model.attention 8`. Then
`ddpm sample BASE --then RUN` draws at 32×32.
"""

from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
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
        diffusion=DiffusionConfig(
            schedule="cosine", condition=Choice("low_resolution", factor=2, noise=0.1)
        ),
        optimizer=OptimizerConfig(warmup=5_000),
        train=TrainConfig(steps=400_000, keep_every=100_000, preview_every=10_000),
        sample=SampleConfig(sampler="ddpm"),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "model.channels": 8,
    "model.multipliers": (1, 2),
    "model.blocks": 1,
    "diffusion.timesteps": 20,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.num": 16,
}
