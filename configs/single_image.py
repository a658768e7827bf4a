"""One picture"""

from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    OptimizerConfig,
    PictureData,
    SampleConfig,
    SmallUNetConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=PictureData(),
        model=SmallUNetConfig(channels=(8, 16, 32, 64), time_dim=16, groups=4),
        diffusion=DiffusionConfig(schedule="linear", timesteps=100, beta_1=1e-3, beta_T=0.2),
        optimizer=OptimizerConfig(learning_rate=1e-4, clip=None),
        train=TrainConfig(
            steps=20_000,
            batch_size=2,
            ema_decay=0.999,
            log_every=100,
            save_every=1_000,
            preview_every=1_000,
        ),
        sample=SampleConfig(sampler="ddpm-beta", num=1),
    )


# `ddpm train --smoke`: the same run in seconds.
SMOKE = {
    "data.image_size": (27, 40),
    "diffusion.timesteps": 20,
    "train.steps": 4,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
}
