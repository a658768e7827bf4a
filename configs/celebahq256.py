"""CelebA-HQ at 256×256 by the paper's recipe (Ho et al. 2020, appendix B): 113,673,219 parameters.

TFDS's `celeb_a_hq/256` is prepared from files that one asks its authors for (`ddpm data prepare`
says how). On few devices `--model.remat True` and `--train.gradient_accumulation_steps 8` trade
time for memory, and `--mesh.fsdp N` splits parameters and optimizer over N of them.
"""

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
        data=TfdsData(name="celeb_a_hq/256", image_size=(256, 256), flip=True),
        model=UNetConfig(channels=128, multipliers=(1, 1, 2, 2, 4, 4), blocks=2, attention=(16,)),
        diffusion=DiffusionConfig(schedule="linear", timesteps=1000, beta_1=1e-4, beta_T=0.02),
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-5, warmup=5_000, clip=1.0),
        train=TrainConfig(
            steps=500_000,
            batch_size=64,
            ema_decay=0.9999,
            keep_every=100_000,
            preview_every=10_000,
        ),
        sample=SampleConfig(sampler="ddpm-beta", num=16, batch_size=16),
    )


# `ddpm train --smoke`: the same run in seconds.
SMOKE = {
    "data.image_size": (32, 32),
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
