"""CelebA-HQ at 256×256 by the paper's recipe (Ho et al. 2020, appendix B): 113,673,219 parameters.

TFDS prepares `celeb_a_hq/256` from files that its authors hand out on request; `ddpm data prepare`
says how. On few devices, `--model.remat True` and `--train.gradient_accumulation_steps 8` need less
memory and more time, and `--mesh.fsdp N` splits the parameters and the optimizer over N devices. By
a TPU compiler's estimate 8 images a chip (`--train.batch_size 128` on 16) take half as long as 4.
"""

from ddpm_jax.config import (
    Config,
    OptimizerConfig,
    SampleConfig,
    TfdsData,
    TrainConfig,
    UNetConfig,
)


def get_config() -> Config:
    return Config(
        data=TfdsData(name="celeb_a_hq/256", image_size=(256, 256), flip=True),
        model=UNetConfig(multipliers=(1, 1, 2, 2, 4, 4)),
        optimizer=OptimizerConfig(learning_rate=2e-5, warmup=5_000),
        train=TrainConfig(steps=500_000, batch_size=64, keep_every=100_000, preview_every=10_000),
        sample=SampleConfig(num=16, batch_size=16),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "data.image_size": (32, 32),
    "model.channels": 8,
    "model.multipliers": (1, 2),
    "model.blocks": 1,
    "diffusion.timesteps": 20,
    "diffusion.schedule": "cosine",  # It ends in noise after 20 steps too.
    "train.steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.num": 16,
}
