"""Your own points, `[N, 2]` or more numbers each: `ddpm train points --data.path FILE.npy`.

Where a point has many numbers (`--data.dimensions 64`: series, tables), predict x_0: an MLP finds
the few directions of the data more easily than noise in all of them.
"""

from ddpm_jax.config import (
    ArraysData,
    Choice,
    Config,
    DiffusionConfig,
    MlpConfig,
    OptimizerConfig,
    SampleConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=ArraysData(holds="points"),
        model=MlpConfig(width=256),
        diffusion=DiffusionConfig(schedule="cosine", timesteps=100, prediction="v"),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        train=TrainConfig(
            steps=20_000,
            batch_size=256,
            steps_per_dispatch=100,
            averages={"ema": Choice("ema", decay=0.999)},
            log_every=500,
            save_every=2_000,
            preview_every=10_000,
        ),
        sample=SampleConfig(clipping="none", num=2_000, batch_size=2_000),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "model.width": 16,
    "diffusion.timesteps": 20,
    "train.steps": 20,
    "train.batch_size": 32,
    "train.steps_per_dispatch": 2,
    "train.log_every": 4,
    "train.save_every": 10,
    "train.preview_every": None,
    "sample.num": 100,
    "sample.batch_size": 100,
}
