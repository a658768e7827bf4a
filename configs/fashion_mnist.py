"""Fashion-MNIST as in the annotated diffusion model (document 004): T = 200, Huber, ConvNeXt.

`--diffusion.schedule` takes the document's other three: cosine, quadratic and sigmoid. With β_T =
0.02 its T = 200 steps leave ᾱ_T = 0.13 of the data, so that samples begin a little off; cosine ends
in noise. `--data.name mnist` trains on digits instead. The five epochs are 2,345 steps; the
parameters are not averaged, and guesses of x_0 not clipped.

In the document a preview never comes, as it is due at step 1,000 of an epoch that has 469; here it
comes every 1,000 steps of the run. Its cosine schedule keeps β between 0.0001 and 0.9999, ours
below 0.999 (Nichol & Dhariwal 2021).

The figures come with the end of training, or by `ddpm plot RUN`: a picture's strip to noise, beside
samples.png, 64 of them, and their film, denoising.gif.
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
        data=TfdsData(name="fashion_mnist", image_size=(28, 28), channels=1, flip=True),
        model=AnnotatedUNetConfig(block="convnext", dim=28, multipliers=(1, 2, 4)),
        diffusion=DiffusionConfig(
            schedule="linear", timesteps=200, beta_1=1e-4, beta_T=0.02, loss="huber"
        ),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, clip=None),
        train=TrainConfig(
            steps=2_345, batch_size=128, ema_decay=0.0, save_every=1_000, preview_every=1_000
        ),
        sample=SampleConfig(sampler="ddpm", clip=False, num=64),
        figures=("forward",),
    )


# `ddpm train --smoke`: the same run in seconds.
SMOKE = {
    "model.dim": 8,
    "model.multipliers": (1, 2),
    "diffusion.timesteps": 20,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.num": 16,
}
