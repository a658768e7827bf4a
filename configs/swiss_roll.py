"""Two-dimensional shapes from noise, as the 2-D tutorial trains them: a minute or two on two cores.

10,000 points, T = 100 with a sigmoid β from 1e-4 to 0.02, an MLP of 72,066 parameters, Adam, 1,000
epochs. The other shapes:

    ddpm train configs/swiss_roll.py --data.shape s_curve        (or moons, circles, checkerboard)
    ddpm train configs/swiss_roll.py --data.shape moons --model.num_classes 2       a moon a class

The figures, forward and reverse scatter strips, come with the end of training, or by `ddpm plot
RUN`. How far samples lie from fresh points: `ddpm evaluate RUN --data.table 1`.

Where the tutorial errs, this is right: it multiplies the noise of a sampling step by its variance,
where the standard deviation belongs; it leaves out the last step, so that its samples keep the
noise of t = 1; it never clears the gradients, so that a step follows the clipped sum of all before
it. And it says that x_T is pure noise, where its schedule leaves ᾱ_T = 0.36: sampling starts from
what training never saw, which caps what any network can reach. `swiss_roll_noise.py` mends that.
"""

from ddpm_jax.config import (
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
        data=PointsData(shape="swiss_roll", size=10_000, noise=0.1),
        model=MlpConfig(width=128, layers=3),
        diffusion=DiffusionConfig(schedule="sigmoid", timesteps=100, beta_1=1e-4, beta_T=0.02),
        optimizer=OptimizerConfig(learning_rate=1e-3, clip=1.0),
        train=TrainConfig(
            steps=78_000,
            batch_size=128,
            steps_per_dispatch=100,
            ema_decay=0.999,
            log_every=600,
            save_every=7_800,
            preview_every=7_800,
        ),
        sample=SampleConfig(sampler="ddpm", clip=False, num=10_000, batch_size=10_000),
        figures=("forward", "reverse"),
    )


# `ddpm train --smoke`: the same run in seconds.
SMOKE = {
    "data.size": 500,
    "model.width": 16,
    "diffusion.timesteps": 20,
    "train.steps": 20,
    "train.steps_per_dispatch": 2,
    "train.log_every": 4,
    "train.save_every": 10,
    "train.preview_every": 10,
    "sample.num": 500,
    "sample.batch_size": 500,
}
