# %% [markdown]
# # Editing
#
# A trained model edits pictures: vary, inpaint, enlarge, interpolate, invert.
#
# Nothing is trained here. All of these use that a chain may start anywhere, not only from noise,
# and that what is known of the result can be put into each step.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import ddpm_jax
from ddpm_jax import diffusion as d
from ddpm_jax import plots
from ddpm_jax.data import open_source, to_unit
from ddpm_jax.data.settings import DigitsData
from ddpm_jax.runtime.random import sample_keys
from ddpm_jax.sampling.denoiser import network_denoiser
from ddpm_jax.tutorial.support import digits_config, show

run = ddpm_jax.train(digits_config(), "digits").run
schedule = run.experiment.schedule
examples = open_source(DigitsData()).gather(np.arange(10)).examples
digits = np.asarray(to_unit(jnp.asarray(examples)))
three, seven = digits[3], digits[7]

# %% [markdown]
# ## Vary
#
# Add noise up to a time $t$ by `q_sample`, and denoise from there (SDEdit: Meng et al. 2022). The
# later the time, the less stays of the picture. By hand:

# %%
denoiser = network_denoiser(run.experiment, run.params, run.experiment.condition(None))
sampler = d.make_sampler("ddim", schedule)


@jax.jit
def draw(x_t, rows, keys):
    return d.sample(sampler, denoiser, x_t, rows=rows, keys=keys)[0]


def vary(picture, t, num=4, steps=10):
    keys, x_0 = sample_keys(0, np.arange(num)), jnp.repeat(picture[None], num, axis=0)
    x_t = d.q_sample(schedule, x_0, jnp.array(t), d.sample_noise(keys, picture.shape))
    times = np.linspace(t, 0, steps + 1).round().astype(int)
    return draw(x_t, d.plan_chain(sampler, schedule, times), keys)


starts = (20, 60, 100, 140, 180)
varied = np.stack([np.stack([three, *vary(three, t)]) for t in starts])
columns = ["given", "1", "2", "3", "4"]
show(plots.trajectory, "7-vary.png", varied, columns=columns, rows=list(starts))

# %% [markdown]
# How far the results are from the picture grows with $t$. The package's `run.edit("vary", …)` is
# the same, with its own sampler and steps.

# %%
moved = [float(np.abs(row[1:] - row[0]).mean()) for row in varied]
print(
    "distance by start:", ", ".join(f"t = {t}: {m:.2f}" for t, m in zip(starts, moved, strict=True))
)
assert moved[0] < moved[-1]

# %% [markdown]
# ## Inpaint
#
# Known pixels are put into each guess $\hat x_0$, and the rest is drawn (DDNM: Wang et al. 2023).
# For large holes there is RePaint (Lugmayr et al. 2022), with 2,410 calls of the network where DDNM
# needs 100.

# %%
hole = np.zeros((8, 8), bool)
hole[4:] = True
filled = run.edit("inpaint", three, hole, num=5, steps=50)
given = np.where(hole[..., None], 0.0, three)
row = np.stack([three, given, *filled.samples.samples])
columns = ["picture", "given", "1", "2", "3", "4", "5"]
show(plots.trajectory, "7-inpaint.png", row, columns=columns)

# %% [markdown]
# What was known stays as it was, to the last bit:

# %%
known = filled.samples.samples[:, ~hole]
assert np.array_equal(known, np.repeat(three[~hole][None], 5, axis=0))

# %% [markdown]
# ## Enlarge
#
# The same method for any linear measurement $y = A x$: here means of 2×2 pixels.

# %%
small = three.reshape(4, 2, 4, 2, 1).mean(axis=(1, 3))
large = run.edit("upscale", small, num=5, steps=50).samples.samples
blocks = small.repeat(2, 0).repeat(2, 1)
row = np.stack([three, blocks, *large])
show(plots.trajectory, "7-enlarge.png", row, columns=columns)

# %%
np.testing.assert_allclose(
    large.reshape(5, 4, 2, 4, 2, 1).mean(axis=(2, 4)), np.stack([small] * 5), atol=1e-3
)

# %% [markdown]
# ## Invert and interpolate
#
# DDIM adds no noise, so its path from $x_T$ to $x_0$ can be followed upwards: it gives the noise
# that a picture comes from (Song et al. 2021, section 5.4). They state the error of the picture
# drawn again on [0, 1], on CIFAR-10: 0.0009 in 100 steps.

# %%
inverted = run.edit("invert", digits[:7], steps=100)
redrawn = inverted.samples.samples
assert inverted.noise is not None
names = ["picture", "its noise", "drawn again"]
show(plots.trajectory, "7-invert.png", np.stack([digits[:7], inverted.noise, redrawn]), rows=names)

# %%
error = float(((redrawn - digits[:7]) ** 2 / 4).mean())
print(f"mean squared error: {error:.4f}")

# %% [markdown]
# Between two such noises lies a way from one picture to the other. A straight line would leave the
# sphere on which noise lies, so the way turns from one to the other. Mixed pixels, below, are not
# digits:

# %%
way = run.edit("interpolate", three, seven, num=7, steps=100).samples.samples
fraction = np.linspace(0, 1, 7)[:, None, None, None]
rows = np.stack([way, (1 - fraction) * three + fraction * seven])
show(plots.trajectory, "7-interpolate.png", rows, rows=["by noise", "by pixels"])

# %% [markdown]
# ## In the package
#
# | edit | source | command |
# | --- | --- | --- |
# | vary | Meng et al. 2022 | `ddpm edit RUN PICTURE --how vary --t 80` |
# | inpaint | Wang et al. 2023, Lugmayr et al. 2022 | `--how inpaint`, `--method repaint` |
# | enlarge, colourise, deblur | Wang et al. 2023 | `--how upscale`, `colourise`, `deblur` |
# | interpolate | Song et al. 2021, Ho et al. 2020 | `ddpm edit RUN ONE OTHER --how interpolate` |
# | invert | Song et al. 2021 | `--how invert --output FILE.npz` |
