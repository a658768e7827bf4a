r"""One picture of any size, after the French PyTorch notebook "Démo DDPM".

The picture is scikit-learn's flower.jpg at its own 427×640. `--data.path FILE` takes yours at its
own size, `--data.image_size H W` at another one. T = 100 with β from 1e-3 to 0.2, two timesteps of
the picture in each step, mean squared error, Adam 1e-4, σ² = β, and the notebook's small U-Net with
395,763 parameters. The notebook shows one training step and no sample; the number of steps is ours.

Errors of the notebook that are corrected here: its stepwise noise lacks both square roots, and its
direct noise lacks that of 1 - ᾱ_t. Its time table divides the exponent by T; here the frequencies
are 10000^(-i/7), i = 0…7, spaced as in Ho et al.'s code. It trains with β from 1e-4 to 0.02, which
leaves ᾱ_T = 0.36, and samples from pure noise with the β above. Its pixels are in [0, 1], here in
[-1, 1], and x̂_0 is clipped.

One thing is different: the network predicts v, the notebook's predicts eps. In a single picture the
mean of the noise hardly varies, so a network that predicts eps never learns to correct a wrong
colour. After 1,500 steps at 27×40 (Adam 1e-3), six samples of such a network have the flower's
shape in six tints, 8 to 19 dB from the picture; with v all are 24 to 26 dB from it.
`--diffusion.prediction eps` is the notebook's own.

The network sees 100 pixels across. Of a larger picture it learns the texture but not the places,
and it draws the flower's colours in patches. `single_image_deep.py` sees all of 427×640. A small
flower takes two minutes on two cores:

    ddpm train single_image --data.image_size 53 80 --optimizer.learning_rate 1e-3 \
        --train.steps 1500

`ddpm plot RUN` draws the figures, and so does the end of training: the picture on its way to noise,
stepwise and directly, and a sample on its way back.
"""

from ddpm_jax.config import (
    Choice,
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
        model=SmallUNetConfig(),
        diffusion=DiffusionConfig(
            schedule=Choice("linear", beta_1=1e-3, beta_T=0.2), timesteps=100, prediction="v"
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4, clip=None),
        train=TrainConfig(
            steps=20_000,
            batch_size=2,
            averages={"ema": Choice("ema", decay=0.999)},
            save_every=1_000,
            preview_every=1_000,
        ),
        sample=SampleConfig(sampler="ddpm-beta", num=1),
        figures=("forward", "reverse"),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "data.image_size": (27, 40),
    "diffusion.timesteps": 20,
    "diffusion.schedule": "cosine",  # It ends in noise after 20 steps too.
    "train.steps": 4,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
}
