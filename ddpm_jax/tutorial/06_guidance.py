# %% [markdown]
# # Guidance
#
# Leading samples towards their class, and what that costs.
#
# In training a tenth of the labels were dropped, so the network knows two denoisers: one that is
# told the class, and one that is not. Their difference points to what makes the class.
# Classifier-free guidance goes further in this direction (Ho & Salimans 2022, equation 6):
#
# $$\hat x_0^{(w)} = \hat x_0(x_t, y) + w\,\bigl(\hat x_0(x_t, y) - \hat x_0(x_t)\bigr)$$
#
# $w = 0$ is no guidance. Other programs call $w + 1$ the scale.

# %%
import jax
import numpy as np

import ddpm_jax
from ddpm_jax import diffusion as d
from ddpm_jax import plots
from ddpm_jax.runtime.random import sample_keys
from ddpm_jax.sampling.denoiser import network_denoiser
from ddpm_jax.tutorial.support import digits_config, recognized, show

run = ddpm_jax.train(digits_config(), "digits").run
experiment, schedule = run.experiment, run.experiment.schedule

# %% [markdown]
# ## By hand
#
# A guided denoiser is made of two others, so no sampler needs to know of it. At a given $x_t$ the
# noise is affine in $x_0$, and gets the same formula.

# %%
labels = np.tile(np.arange(10), run.config.sample.num // 10)
told = network_denoiser(experiment, run.params, experiment.condition(labels))
untold = network_denoiser(experiment, run.params, experiment.condition(labels, dropped=True))
sampler = d.make_sampler("ddim", schedule)
rows = d.plan_chain(sampler, schedule, d.make_time_grid("strided", schedule, 20))
keys = sample_keys(0, np.arange(len(labels)))


@jax.jit
def draw(w):
    def guided(x_t, t):
        strong, weak = told(x_t, t), untold(x_t, t)
        x_0 = strong.x_0 + w * (strong.x_0 - weak.x_0)
        return strong._replace(x_0=x_0, eps=strong.eps + w * (strong.eps - weak.eps))

    denoiser = d.make_clipping("clip", schedule)(guided)
    return d.sample(sampler, denoiser, d.sample_noise(keys, (8, 8, 1)), rows=rows, keys=keys)[0]


# %% [markdown]
# Guessed pixels outside [-1, 1] are clipped: guidance makes many of them. A run does all of it by a
# setting. Samples of a seed have the same noise, whatever the settings are:

# %%
plain = {"sampler": "ddim", "grid": "strided", "steps": 20}
same = run.sample(labels=labels, guidance=2.0, seed=0, **plain).samples
difference = float(np.abs(same - draw(2.0)).mean())
print(f"mean difference: {difference:.1e}")
assert difference < 0.01

# %% [markdown]
# ## How much?
#
# From the same noise, a row for each weight:

# %%
weights = (0.0, 1.0, 3.0, 8.0)
drawn = {w: np.asarray(draw(w)) for w in weights}
first = np.stack([samples[:10] for samples in drawn.values()])
names = [f"w = {w:g}" for w in weights]
show(plots.trajectory, "6-weights.png", first, columns=[str(k) for k in range(10)], rows=names)

# %% [markdown]
# Guidance makes samples clearer and more alike. A classifier of real digits finds the class asked
# for more often, and the spread within a class, its mean standard deviation, shrinks at first. Too
# much of it drives pixels to black and white:


# %%
def spread(samples):
    return float(np.mean([samples[labels == k].std(axis=0).mean() for k in range(10)]))


agreements = [recognized(samples, labels) for samples in drawn.values()]
spreads = [spread(samples) for samples in drawn.values()]
for w, share, width in zip(weights, agreements, spreads, strict=True):
    print(f"w = {w:g}: {share:.0%} have their class, spread {width:.2f}")

# %% [markdown]
# In the paper, on ImageNet at 64×64, a small weight is best for FID (1.55 at $w = 0.1$), and the
# largest for the Inception score (260 at $w = 4$, with an FID of 26.2; table 1). So $w$ is a
# choice, not a quality.
#
# ## In the package
#
# | | paper | flag of `ddpm sample` |
# | --- | --- | --- |
# | the weight | Ho & Salimans 2022 | `--guidance 1` |
# | only at some times | Kynkäänniemi et al. 2024 | `--guidance_interval -1 3` |
# | the contrast taken back | Lin et al. 2023 | `--rescale 0.7` |
# | across $\hat x_0$ alone | Sadat et al. 2024 | `--guidance_method adaptive_projected` |
# | away from another class | | `--negative_label 8` |
# | by a weaker run | Karras et al. 2024 | `--guide RUN` |
# | by a classifier | Dhariwal & Nichol 2021 | `--classifier RUN` |
