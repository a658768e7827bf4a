"""MNIST in T = 10 steps: document 002, a class of two hours; 37,500 steps are its 20 epochs.

Linear β from 0.1 to 0.8 leaves x_T = 0.0308 x_0 + noise of variance 0.9991. The network predicts
eps (mean squared error, Adam 1e-3), the chain is Ho et al.'s algorithm 2. Done otherwise here:

- The document makes a plane of the time and never feeds it to its network; here it is used.
- To recover x_0 from x_t and eps it divides by ᾱ_t, where sqrt(ᾱ_t) belongs.
- Its pixels are (x - 128)/128, so white is 0.992; ours, x/127.5 - 1, fill [-1, 1].
- It leaves σ_t open. Ten steps are large ones, and σ² = β_t adds more noise than they can take
  away: σ² = β̃_t, each guess of x_0 clipped, parameters averaged (EMA).

The figures come with the end of training, or by `ddpm plot RUN`: the strip to noise, stepwise and
direct, x_t of a test image above the x_0 guessed from it, and the strip back; samples.png is the
grid of 5 by 10.
"""

from ddpm_jax.config import (
    Config,
    DiffusionConfig,
    OptimizerConfig,
    SampleConfig,
    StepUNetConfig,
    TfdsData,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=TfdsData(name="mnist", image_size=(28, 28), channels=1),
        model=StepUNetConfig(),
        diffusion=DiffusionConfig(schedule="linear", timesteps=10, beta_1=0.1, beta_T=0.8),
        optimizer=OptimizerConfig(learning_rate=1e-3, clip=None),
        train=TrainConfig(
            steps=37_500,
            batch_size=32,
            steps_per_dispatch=5,
            ema_decay=0.999,
            preview_every=1_875,
        ),
        sample=SampleConfig(sampler="ddpm", num=50),
        figures=("forward", "x0 --split test", "reverse --num 1"),
    )


# `ddpm train --smoke`: the same run in seconds.
SMOKE = {
    "model.channels": 4,
    "train.steps": 4,
    "train.steps_per_dispatch": 2,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.num": 20,
}
