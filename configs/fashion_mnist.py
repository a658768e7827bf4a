"""Fashion-MNIST as in "The Annotated Diffusion Model": T = 200, Huber loss, ConvNeXt blocks.

Source: https://huggingface.co/blog/annotated-diffusion. Its five epochs are 2,345 steps. It does
not average the parameters and does not clip x̂_0. `--data.name mnist` trains on digits instead.

Its other three schedules are `--diffusion.schedule cosine`, `quadratic` and `sigmoid`. With β_T =
0.02, T = 200 steps leave ᾱ_T = 0.13, so x_T is not pure noise and samples begin a little off. The
cosine schedule ends in noise. It keeps β between 0.0001 and 0.9999 there, and below 0.999 here
(Nichol & Dhariwal 2021).

Its previews are due at step 1,000 of an epoch that has 469 steps, so none comes. Here one comes
every 1,000 steps of the run.

`ddpm plot RUN` draws the figure, and so does the end of training: images on their way to noise.
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
        data=TfdsData(name="fashion_mnist", image_size=(28, 28), channels=1, flip=True),
        model=AnnotatedUNetConfig(),
        diffusion=DiffusionConfig(timesteps=200, loss="huber"),
        optimizer=OptimizerConfig(learning_rate=1e-3, clip=None),
        train=TrainConfig(
            steps=2_345,
            averages={"ema": Choice("ema", decay=0.0)},
            save_every=1_000,
            preview_every=1_000,
        ),
        sample=SampleConfig(sampler="ddpm", clipping="none"),
        figures=("forward",),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
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
