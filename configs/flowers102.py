"""Oxford's 102 flowers at 128×128 as in the blog post "Playing with DDPM": T = 1,000, L1 loss.

The post is of 2023-02-08 and builds on https://huggingface.co/blog/annotated-diffusion. It trains
on all 8,189 pictures. Its network has ResNet blocks with dim 128 and 32,009,619 parameters. Its
other network, ConvNeXt blocks with 14,733,783 parameters, is
`--model.block convnext --model.dim 32 --model.multipliers 1 2 4 8`.

Its 1,000 epochs are 43,000 steps of 192 pictures over all devices: it had 8 GPUs with 24 each. One
GPU may not have memory for 192; `--model.remat True` or `--train.gradient_accumulation_steps 8`
help. It does not average the parameters and does not clip x̂_0.

Two errors of the post are corrected in `models/annotated_unet`: its ConvNeXt block overwrites its
features with the time embedding, and its linear attention takes the softmax of the keys over the
features. And it never shuffles its pictures; here every epoch has a new order.

`ddpm plot RUN` draws the figures, and so does the end of training: five pictures at five times, one
row per time, and ten stages of ten samples.
"""

from ddpm_jax.config import (
    AnnotatedUNetConfig,
    Choice,
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
        model=AnnotatedUNetConfig(block="resnet", dim=128, attention_bias=True),
        diffusion=DiffusionConfig(loss="l1"),
        optimizer=OptimizerConfig(learning_rate=1e-3, clip=None),
        train=TrainConfig(
            steps=43_000,
            batch_size=192,
            averages={"ema": Choice("ema", decay=0.0)},
            save_every=1_000,
            keep_every=10_000,
        ),
        sample=SampleConfig(sampler="ddpm", clipping="none"),
        figures=("forward --num 5 --times 5 --rows times --way direct", "reverse --times 10"),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "data.image_size": (32, 32),
    "model.dim": 8,
    "model.multipliers": (1, 2),
    "diffusion.timesteps": 20,
    "diffusion.schedule": "cosine",  # It ends in noise after 20 steps too.
    "train.steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.num": 16,
}
