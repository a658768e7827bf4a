"""Oxford's 102 flowers at 128×128 as in document 001: T = 1,000, L1, all 8,189 pictures.

The network is the one that the document trains: ResNet blocks, dim 128, 32,009,619 parameters. Its
other published one, ConvNeXt blocks with 14,733,783, comes by
`--model.block convnext --model.dim 32 --model.multipliers 1 2 4 8`. The 1,000 epochs are 43,000
steps of 192 pictures over all devices (on 8 GPUs there: 24 each; one alone had no memory for more,
where `--model.remat True` or `--train.gradient_accumulation_steps 8` help). The parameters are not
averaged, and guesses of x_0 not clipped.

The document's ConvNeXt block overwrites its features with the time embedding, and its linear
attention takes the keys' softmax over features; `models/annotated_unet` does both right. It never
shuffles its pictures; we do, each epoch anew.

The figures come with the end of training, or by `ddpm plot RUN`: five pictures at five times, t on
the rows, and ten stages of ten samples.
"""

from ddpm_jax.config import (
    AnnotatedUNetConfig,
    Config,
    DiffusionConfig,
    OptimizerConfig,
    SampleConfig,
    TfdsData,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=TfdsData(
            name="oxford_flowers102", split="train+validation+test", image_size=(128, 128)
        ),
        model=AnnotatedUNetConfig(
            block="resnet", dim=128, multipliers=(1, 2, 4), attention_bias=True
        ),
        diffusion=DiffusionConfig(
            schedule="linear", timesteps=1000, beta_1=1e-4, beta_T=0.02, loss="l1"
        ),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, clip=None),
        train=TrainConfig(
            steps=43_000,
            batch_size=192,
            ema_decay=0.0,
            save_every=1_000,
            keep_every=10_000,
            preview_every=5_000,
        ),
        sample=SampleConfig(sampler="ddpm", clip=False, num=64),
        figures=("forward --num 5 --times 5 --rows times --way direct", "reverse --times 10"),
    )


# `ddpm train --smoke`: the same run in seconds.
SMOKE = {
    "data.image_size": (32, 32),
    "model.dim": 8,
    "diffusion.timesteps": 20,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.num": 16,
}
