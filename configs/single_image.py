r"""One picture of any size, learned alone: document 000, a demonstration in PyTorch.

scikit-learn's flower.jpg at its own 427×640; `--data.path FILE` takes your picture at its own size,
`--data.image_size H W` at another. T = 100 with β from 1e-3 to 0.2, two timesteps of the picture in
a step, mean squared error, Adam 1e-4, σ² = β, and its small U-Net with 395,763 parameters. The
document shows a single step of training and no sample; the number of steps is ours.

Where the document errs, this is right: its stepwise noise lacks both square roots, the direct one
that of 1 - ᾱ_t; its time table divides the exponent by T where the table's size belongs; it trains
with β from 1e-4 to 0.02, which leaves ᾱ_T = 0.36 of the picture, and samples from pure noise with
the β above. Pixels are on [-1, 1], not [0, 1], and each guess of x_0 is clipped.

One thing is done otherwise: the network predicts v, where the document's predicts eps. In a single
picture the mean of the noise hardly varies, so a network that names the noise never learns to mend
a wrong colour: after 1,500 steps at 27×40 (Adam 1e-3) six samples have the flower's shape in six
tints, 8 to 19 dB from the picture, and with v all are 24 to 26 dB from it.
`--diffusion.prediction eps` is the document's own.

The document's network sees 100 pixels across: of a larger picture it learns what it is made of,
not where that is, and draws the flower's colours in patches. `single_image_deep.py` sees all of
427×640. A small flower, in two minutes on two cores:

    ddpm train configs/single_image.py --data.image_size 53 80 --optimizer.learning_rate 1e-3 \
        --train.steps 1500

The figures come with the end of training, or by `ddpm plot RUN`: the strip to noise, stepwise and
direct, and the strip back.
"""

from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    OptimizerConfig,
    PictureData,
    SampleConfig,
    SmallUNetConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=PictureData(),
        model=SmallUNetConfig(channels=(8, 16, 32, 64), time_dim=16, groups=4),
        diffusion=DiffusionConfig(
            schedule="linear", timesteps=100, beta_1=1e-3, beta_T=0.2, prediction="v"
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4, clip=None),
        train=TrainConfig(
            steps=20_000,
            batch_size=2,
            ema_decay=0.999,
            log_every=100,
            save_every=1_000,
            preview_every=1_000,
        ),
        sample=SampleConfig(sampler="ddpm-beta", num=1),
        figures=("forward", "reverse"),
    )


# `ddpm train --smoke`: the same run in seconds.
SMOKE = {
    "data.image_size": (27, 40),
    "diffusion.timesteps": 20,
    "train.steps": 4,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
}
