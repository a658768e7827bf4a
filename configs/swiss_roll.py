"""Two-dimensional shapes, after the blog post "Diffusion Models" of 2023-04-10.

10,000 points, T = 100 with a sigmoid β from 1e-4 to 0.02, an MLP of 72,066 parameters, Adam, and
1,000 epochs: minutes on two cores. Other shapes:

    ddpm train swiss_roll --data.shape s_curve                   (or moons, circles, branches)
    ddpm train swiss_roll --data.shape moons --model.num_classes 2           one class per moon

`ddpm plot RUN` draws the figures, and so does the end of training: the points on their way to noise
and back. How far samples are from fresh points: `ddpm evaluate RUN --data.table 1`.

Errors of the post that are corrected here: it multiplies the noise of a sampling step by its
variance, not by its standard deviation. It leaves out the last step, so its samples keep the noise
of t = 1. It never clears the gradients, so each step follows the clipped sum of all earlier ones.

One flaw stays: its schedule leaves ᾱ_T = 0.36, so x_T is not pure noise, and sampling starts where
training never was. That limits what any network can reach; `swiss_roll_noise.py` corrects it.
"""

from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    MlpConfig,
    OptimizerConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=PointsData(),
        model=MlpConfig(),
        diffusion=DiffusionConfig(schedule="sigmoid", timesteps=100),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        train=TrainConfig(
            steps=78_000,
            steps_per_dispatch=100,
            averages={"ema": Choice("ema", decay=0.999)},
            log_every=600,
            save_every=7_800,
            preview_every=7_800,
        ),
        sample=SampleConfig(sampler="ddpm", clipping="none", num=10_000, batch_size=10_000),
        figures=("forward", "reverse"),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "data.size": 500,
    "model.width": 16,
    "diffusion.timesteps": 20,
    "diffusion.schedule": "cosine",  # It ends in noise after 20 steps too.
    "train.steps": 20,
    "train.steps_per_dispatch": 2,
    "train.log_every": 4,
    "train.save_every": 10,
    "train.preview_every": 10,
    "sample.num": 500,
    "sample.batch_size": 500,
}
