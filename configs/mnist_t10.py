"""MNIST in T = 10 steps, after a French notebook for a class of two hours; its 20 epochs.

The notebook follows Ho et al. 2020. A linear β from 0.1 to 0.8 leaves x_T = 0.0308 x_0 + noise of
variance 0.9991. The network predicts eps (mean squared error, Adam 1e-3, 37,500 steps), and
sampling is algorithm 2 of the paper. Four things are different here:

- The notebook computes a plane of the time but never feeds it to its network; here the network uses
  it.
- To recover x_0 from x_t and eps, the notebook divides by ᾱ_t; here by sqrt(ᾱ_t).
- Its pixels are (x - 128)/128, so white is 0.992; here they are x/127.5 - 1 and fill [-1, 1].
- It leaves σ_t open. With ten large steps, σ² = β_t adds more noise than they can remove. Here
  σ² = β̃_t, x̂_0 is clipped, and the parameters are averaged (EMA).

`ddpm plot RUN` draws the figures, and so does the end of training: images on their way to noise,
stepwise and directly; x_t of a test image above the x̂_0 guessed from it; and a sample on its way
back. samples.png is a grid of 5 by 10.
"""

from ddpm_jax.config import (
    Choice,
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
        diffusion=DiffusionConfig(schedule=Choice("linear", beta_1=0.1, beta_T=0.8), timesteps=10),
        optimizer=OptimizerConfig(learning_rate=1e-3, clip=None),
        train=TrainConfig(
            steps=37_500,
            batch_size=32,
            steps_per_dispatch=5,
            averages={"ema": Choice("ema", decay=0.999)},
            preview_every=1_875,
        ),
        sample=SampleConfig(sampler="ddpm", num=50),
        figures=("forward", "x0 --split test", "reverse --num 1"),
    )


# `ddpm train --smoke`: the same run, as small as it can be.
SMOKE = {
    "model.channels": 4,
    "train.steps": 4,
    "train.steps_per_dispatch": 2,
    "train.log_every": 2,
    "train.save_every": 4,
    "train.preview_every": None,
    "sample.num": 20,
}
