"""CIFAR-10 by the paper's recipe (Ho et al. 2020, appendix B, and its code): FID 3.17 there."""

from ddpm_jax.config import (
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
        model=UNetConfig(channels=128, multipliers=(1, 2, 2, 2), blocks=2, dropout=0.1),
        diffusion=DiffusionConfig(schedule="linear", timesteps=1000, beta_1=1e-4, beta_T=0.02),
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-4, warmup=5_000, clip=1.0),
        train=TrainConfig(
            steps=800_000,
            batch_size=128,
            ema_decay=0.9999,
            keep_every=100_000,
            preview_every=10_000,
        ),
        sample=SampleConfig(sampler="ddpm-beta"),
    )


# `ddpm train --smoke`: the same run in seconds.
SMOKE = {
    "model.channels": 8,
    "model.blocks": 1,
    "diffusion.timesteps": 20,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.num": 16,
}
