"""Your own pictures at 64×64: `ddpm train folder --data.path FOLDER` (or a zip)."""

from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    FolderData,
    OptimizerConfig,
    TrainConfig,
    UNetConfig,
)


def get_config() -> Config:
    return Config(
        data=FolderData(image_size=(64, 64), flip=True),
        model=UNetConfig(channels=64, multipliers=(1, 2, 2, 4), attention=(16,), dropout=0.1),
        diffusion=DiffusionConfig(schedule="cosine"),
        optimizer=OptimizerConfig(warmup=1_000),
        train=TrainConfig(steps=200_000, batch_size=64, keep_every=50_000),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "data.image_size": (16, 16),
    "model.channels": 8,
    "model.multipliers": (1, 2),
    "model.blocks": 1,
    "diffusion.timesteps": 20,
    "train.steps": 4,
    "train.batch_size": 8,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "train.keep_every": None,
    "sample.num": 4,
}
