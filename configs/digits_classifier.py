"""A classifier of noisy digits, which guides the samples of `digits.py` to the labels asked for.

    ddpm train digits --workdir runs/unlabelled --model.num_classes 0 --train.label_dropout 0
    ddpm train digits_classifier
    ddpm sample runs/unlabelled --classifier runs/digits_classifier --labels 3

It sees x_t at every t of the same schedule. Dhariwal & Nichol 2021, section 4.
"""

from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    DigitsData,
    OptimizerConfig,
    TrainConfig,
    UNetEncoderConfig,
)


def get_config() -> Config:
    return Config(
        data=DigitsData(),
        model=UNetEncoderConfig(
            channels=32, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.1, num_classes=10
        ),
        diffusion=DiffusionConfig(schedule="cosine", timesteps=200, objective="classification"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=50, decay="cosine"),
        train=TrainConfig(
            steps=800,
            steps_per_dispatch=10,
            averages={"ema": Choice("ema", decay=0.99)},
            log_every=20,
            save_every=200,
        ),
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
}
