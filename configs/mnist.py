"""MNIST at its own 28×28, by class, with a small U-Net: an evening on a CPU, minutes on a GPU."""

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
        data=TfdsData(name="mnist", image_size=(28, 28), channels=1),
        model=UNetConfig(
            channels=64, multipliers=(1, 2, 2), attention=(14,), dropout=0.1, num_classes=10
        ),
        diffusion=DiffusionConfig(schedule="cosine"),
        optimizer=OptimizerConfig(warmup=1_000),
        train=TrainConfig(
            steps=50_000, averages={"ema": Choice("ema", decay=0.999)}, label_dropout=0.1
        ),
        sample=SampleConfig(sampler="ddpm", num=100),
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
    "sample.num": 20,
}
