# %% [markdown]
# # Pictures
#
# The U-Net: how it is told the time, what shapes pass through it, and digits that it draws.
#
# For pictures the network is a U-Net: convolutions on the way down to small sides and many
# channels, and on the way up again, with a connection across at each size, so that no detail is
# lost. The data, the loss and the sampler stay as they are.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import ddpm_jax
from ddpm_jax import plots
from ddpm_jax.config import load_file
from ddpm_jax.experiment import build
from ddpm_jax.models.conditioning import timestep_embedding
from ddpm_jax.training.logging.run_logger import read_rows
from ddpm_jax.tutorial.support import digits_config, recognized, show

# %% [markdown]
# ## The time
#
# A network must know how much noise there is. The time becomes sines and cosines of it, from fast
# ones to slow ones (Vaswani et al. 2017): each column below is the embedding of one $t$, sines
# above cosines. Nearby times look alike, distant ones do not.

# %%
embedding = timestep_embedding(jnp.arange(1, 201), 64)
assert embedding.shape == (200, 64)
np.testing.assert_allclose(embedding[9, :2], np.sin([10, 10 * 10_000 ** (-1 / 31)]), atol=1e-5)
large = np.kron(embedding.T, np.ones((3, 3)))  # Nine pixels a number.
show(plots.grid, "5-time.png", large[None, :, :, None])

# %% [markdown]
# A small MLP turns it into a vector. Each block adds this to all its pixels, after a linear layer
# of its own. Class labels enter in the same way: a learned vector for each, added to that of the
# time.
#
# ## The shapes
#
# Flax can call a function of ours around each part of a network, and `jax.eval_shape` finds shapes
# without computing anything:

# %%
config = digits_config()
experiment, seen = build(config), []


def note(call, args, options, context):
    out = call(*args, **options)
    if len(context.module.path) == 1:  # A part of the network, not a part of a part.
        seen.append((context.module.name, out.shape[1:]))
    return out


shapes = experiment.param_shapes


def call(params):
    x, t = jnp.zeros((1, 8, 8, 1)), jnp.ones((1,), jnp.int32)
    return experiment.apply(params, x, t, experiment.condition(), train=False)


with nn.intercept_methods(note):
    jax.eval_shape(call, shapes)
for name, shape in seen:
    print(f"{name:18}", " × ".join(map(str, shape)))

# %% [markdown]
# The paper's network for CIFAR-10 is the same function with more channels and levels. It has 35.7
# million parameters (Ho et al. 2020, appendix B):


# %%
def count(config):
    return sum(leaf.size for leaf in jax.tree.leaves(build(config).param_shapes))


ours, papers = count(config), count(load_file("cifar10"))
print(f"digits {ours:,}, cifar10 {papers:,}")
assert papers == 35_746_307

# %% [markdown]
# ## Training
#
# Our network is small, and so are 8×8 pictures: a minute or two on two cores. The later chapters
# use this run. `configs/digits.py` as it is gives better digits, after a few minutes.

# %%
run = ddpm_jax.train(config, "digits").run
show(plots.loss, "5-loss.png", read_rows(run.folder / "metrics.jsonl"))

# %% [markdown]
# ## Samples
#
# A column for each class. Few steps are enough, as in chapter 4; `ddpm_jax` chooses a sampler that
# suits their number.

# %%
labels = np.tile(np.arange(10), run.config.sample.num // 10)
drawn = run.sample(labels=labels, num_trajectories=10)
assert drawn.frames is not None
assert drawn.times is not None
show(plots.grid, "5-samples.png", drawn.samples[:50], labels=labels[:50])

# %% [markdown]
# The first ten of them on their way out of the noise, a row each:

# %%
shown = np.linspace(0, len(drawn.frames) - 1, 8).astype(int)
rows = np.swapaxes(drawn.frames[shown], 0, 1)
show(plots.trajectory, "5-reverse.png", rows, columns=[int(t) for t in drawn.times[shown]])

# %%
show(plots.animation, "5-denoising.gif", drawn.frames)

# %% [markdown]
# What the network guesses of a real digit, $x_t$ above $\hat x_0$, as the best denoiser did in
# chapter 2. A run has this figure, and the others above, by name: `ddpm plot RUN x0`.
# At $t = T$ nothing of the digit is left, and the guess says nothing of it.

# %%
run.plot("x0", output="5-guess.png")

# %% [markdown]
# And one digit, large:

# %%
show(plots.grid, "5-one.png", drawn.samples[3:4])

# %% [markdown]
# ## Are they the digits that we asked for?
#
# A classifier of real digits says which share of the samples has the class that it was drawn for.

# %%
agreement = recognized(drawn.samples, labels)
print(f"{agreement:.0%} of the samples have their class")

# %% [markdown]
# ## In the package
#
# | here | paper | |
# | --- | --- | --- |
# | U-Net | appendix B | `models/unet.py`, a file for each network; `MODELS` |
# | embedding of the time | section 3.3 of Vaswani et al. 2017 | `timestep_embedding(t, dim)` |
# | a config, built | | `build(config)`: an `Experiment` |
# | a trained run | | `ddpm_jax.load(folder)`; `run.sample`, `run.plot`, `run.evaluate` |
