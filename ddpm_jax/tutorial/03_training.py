# %% [markdown]
# # Training
#
# Algorithm 1 in twenty lines, and the package's training, which does the same.
#
# Ho et al. 2020 train with the simple loss, the squared error of the noise (their equation 14):
#
# $$L_\text{simple} = E_{t, x_0, \epsilon}\,
#   \bigl\|\epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,
#   t)\bigr\|^2,\qquad t \sim U\{1 \dots T\},\ \epsilon \sim \mathcal N(0, I)$$
#
# So one step of training takes a batch of data, draws a time and noise for each example, and goes
# down the gradient of the error.

# %%
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ddpm_jax
from ddpm_jax import plots
from ddpm_jax.data import batch_indices, open_source
from ddpm_jax.diffusion import make_schedule, q_sample
from ddpm_jax.experiment import build
from ddpm_jax.models import MlpConfig, make_network
from ddpm_jax.runtime.random import stream_key
from ddpm_jax.training.logging.run_logger import read_rows
from ddpm_jax.tutorial.support import show, swiss_roll_config

config = swiss_roll_config()
source = open_source(config.data)
points = source.gather(np.arange(len(source))).examples
STEPS, BATCH, T = config.train.steps, config.train.batch_size, config.diffusion.timesteps

# %% [markdown]
# ## What one step sees
#
# Left the points of a batch, then $x_t$, each at its own time, then the noise that the network
# shall find in $x_t$.

# %%
schedule = make_schedule("cosine", T)


def draw(x_0, step):
    x_0 = jnp.asarray(x_0)
    t = jax.random.randint(stream_key(0, "timestep", step), (len(x_0),), 1, T + 1)
    eps = jax.random.normal(stream_key(0, "noise", step), x_0.shape)
    return q_sample(schedule, x_0, t, eps), t, eps


x_t, t, eps = draw(points[:1_000], 0)
seen = np.stack([points[:1_000], x_t, eps])
show(plots.trajectory, "3-step.png", seen, columns=["$x_0$", "$x_t$", r"$\epsilon$"])

# %% [markdown]
# A key is a function of the seed, of what is drawn, and of the step: `stream_key(0, "noise", 17)`
# is always the same. No generator has a state that one could lose, so step 17 can be made again.
#
# ## The network
#
# An MLP whose layers are scaled by a learned row for each time. In Flax a network holds no
# parameters: `init` returns them, and `apply` takes them.

# %%
network = make_network(MlpConfig(), out_channels=2, timesteps=T)
params = network.init(
    stream_key(0, "init"), jnp.zeros((1, 2)), jnp.ones((1,), jnp.int32), train=False
)["params"]
count = sum(leaf.size for leaf in jax.tree.leaves(params))
print(f"{count:,} parameters")
assert count == 52_866

# %% [markdown]
# ## The loop
#
# Here is all of training: a loss, a step, and a loop. `jax.jit` compiles the step once.

# %%
optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))
)


def loss(params, x_0, step):
    x_t, t, eps = draw(x_0, step)
    output: Any = network.apply({"params": params}, x_t, t, train=True)
    return ((eps - output) ** 2).mean()


@jax.jit
def train_step(params, state, x_0, step):
    value, gradient = jax.value_and_grad(loss)(params, x_0, step)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


state, losses = optimizer.init(params), []
for step in range(STEPS):
    batch = points[batch_indices(0, step, BATCH, len(points))]
    params, state, value = train_step(params, state, batch, step)
    losses.append(value)

# %% [markdown]
# ## The package's training
#
# `ddpm_jax.train` takes a config and a folder. It makes the same step, and around it what a long
# run needs: checkpoints, resuming to the bit, averages of the parameters, several devices, logs.

# %%
result = ddpm_jax.train(config, "swiss_roll")
logged = read_rows(result.run.folder / "metrics.jsonl")
show(plots.loss, "3-loss.png", logged)

# %% [markdown]
# The two saw the same batches, times and noise. So their losses agree; what differs later comes
# from rounding, which grows from step to step:

# %%
ours = np.mean(np.reshape(losses, (len(logged), -1)), axis=1)
theirs = np.array([row["loss"] for row in logged])
print(f"first steps: ours {ours[0]:.4f}, the package's {theirs[0]:.4f}")
print(f"last steps:  ours {ours[-1]:.4f}, the package's {theirs[-1]:.4f}")
np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-3)
quarters = [each.reshape(4, -1).mean(axis=1) for each in (ours, theirs)]
np.testing.assert_allclose(*quarters, rtol=0.02)

# %% [markdown]
# It is the same function, too. An `Experiment` is what a config describes, built: `draw` is ours
# with its streams, and `losses` is the loss of each example.

# %%
experiment = build(config)
batch = source.gather(batch_indices(0, 5, BATCH, len(points)))
same = experiment.losses(params, experiment.draw(batch, 5), train=True).mean()
np.testing.assert_allclose(same, loss(params, batch.examples, 5), rtol=1e-4)

# %% [markdown]
# The loss does not go to 0: what is left is the noise that nobody can know from $x_t$. Here it ends
# near 0.32.
#
# ## In the package
#
# | here | paper | function |
# | --- | --- | --- |
# | times and noise | algorithm 1, lines 3 and 4 | `Experiment.draw(batch, step)` |
# | the loss | equation 14 | `make_objective("simple", …)`; also `bound` and `hybrid` |
# | the step | algorithm 1, line 5 | `training.step.make_train_step(experiment)` |
# | the loop | lines 1 and 6 | `ddpm_jax.train(config, folder)`, `ddpm train CONFIG` |
# | average of parameters | 0.9999, appendix B | `train.averages`; `run.params` is the average |
