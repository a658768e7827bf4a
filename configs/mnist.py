"""MNIST at its own 28×28, by class, with a U-Net small enough for a CPU."""

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
            channels=32, multipliers=(1, 2, 2), blocks=1, attention=(7,), num_classes=10
        ),
        diffusion=DiffusionConfig(schedule="cosine"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=200, decay="cosine"),
        train=TrainConfig(
            steps=4_000,
            batch_size=64,
            steps_per_dispatch=10,
            averages={"ema": Choice("ema", decay=0.999)},
            label_dropout=0.1,
            log_every=50,
            save_every=200,
            preview_every=1_000,
        ),
        sample=SampleConfig(steps=20, num=100),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "model.channels": 8,
    "model.multipliers": (1, 2),
    "model.attention": (14,),
    "diffusion.timesteps": 20,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.steps_per_dispatch": 2,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.steps": 10,
    "sample.num": 20,
}
