"""The 1,797 handwritten digits of scikit-learn, by class: minutes on a laptop's CPU."""

from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    DigitsData,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
    UNetConfig,
)


def get_config() -> Config:
    return Config(
        data=DigitsData(),
        model=UNetConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(4,), num_classes=10),
        diffusion=DiffusionConfig(schedule="cosine", timesteps=200),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=50, decay="cosine"),
        train=TrainConfig(
            steps=800,
            steps_per_dispatch=10,
            averages={"ema": Choice("ema", decay=0.995)},
            label_dropout=0.1,
            log_every=20,
            save_every=200,
            preview_every=400,
        ),
        sample=SampleConfig(steps=20, num=100),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "model.channels": 8,
    "diffusion.timesteps": 20,
    "train.steps": 20,
    "train.batch_size": 16,
    "train.steps_per_dispatch": 2,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": 8,
    "sample.steps": None,
    "sample.num": 20,
}
