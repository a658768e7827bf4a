# %% [markdown]
# # Sampling
#
# Algorithm 2 in ten lines, the package's samplers, and how few steps are enough.
#
# Sampling starts from noise and goes back through all times. Each step puts the guess $\hat x_0$
# into the posterior of chapter 2 and draws from it (Ho et al. 2020, algorithm 2):
#
# $$x_{t-1} = \tilde\mu_t(x_t, \hat x_0) + \sigma_t z,\qquad z \sim \mathcal N(0, I)$$
#
# For $\sigma_t^2$ the paper tries $\beta_t$ and $\tilde\beta_t$, and finds little difference at
# $T = 1000$.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import ddpm_jax
from ddpm_jax import diffusion as d
from ddpm_jax import plots
from ddpm_jax.data.points import swiss_roll
from ddpm_jax.evaluation.metrics.wasserstein import sliced_wasserstein
from ddpm_jax.sampling.denoiser import network_denoiser
from ddpm_jax.tutorial.support import show, swiss_roll_config

# If chapter 3 was run here, its run is found finished.
run = ddpm_jax.train(swiss_roll_config(), "swiss_roll").run
schedule, T = run.experiment.schedule, run.experiment.schedule.T

# %% [markdown]
# ## The sampler
#
# The network becomes a denoiser; a sampler sees nothing else. Each sample has a key of its own, and
# the noise of a step is that key, folded with the time. So a sample does not depend on the others.

# %%
denoiser = network_denoiser(run.experiment, run.params, run.experiment.condition())


def normal(keys, t):
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), (2,)))(keys)


@jax.jit
def draw(keys):
    def step(x_t, t):
        x_0 = denoiser(x_t, t).x_0
        mean, _ = d.q_posterior(schedule, x_0, x_t, t=t, s=t - 1)
        variance = jnp.where(t > 1, d.forward_variance(schedule, t=t, s=t - 1, ndim=2), 0)
        x_s = mean + jnp.sqrt(variance) * normal(keys, t)
        return x_s, x_s

    x_T = normal(keys, 0)
    return x_T, jax.lax.scan(step, x_T, jnp.arange(T, 0, -1))[1]


keys = jax.random.split(jax.random.key(0), run.config.sample.num)
x_T, later = draw(keys)
samples = later[-1]

# %% [markdown]
# The last step adds no noise: at $t = 1$ the sample is the mean. Here is the way back, at every
# fifth time, and as an animation:

# %%
frames = np.concatenate([x_T[None], later])
shown = np.arange(0, T + 1, T // 10)
show(plots.trajectory, "4-reverse.png", frames[shown], columns=[int(T - k) for k in shown])

# %%
show(plots.animation, "4-denoising.gif", frames)

# %% [markdown]
# ## The package's sampler
#
# A sampler is a tuple of functions, a row of a table. `plan_chain` computes its coefficients on the
# host in float64, `sample` follows them. The same keys give the same points.

# %%
sampler = d.make_sampler("ddpm", schedule, variance="beta")
rows = d.plan_chain(sampler, schedule, d.make_time_grid("strided", schedule, T))
same, _ = jax.jit(lambda x, keys: d.sample(sampler, denoiser, x, rows=rows, keys=keys))(x_T, keys)
difference = float(jnp.abs(same - samples).max())
print(f"largest difference: {difference:.1e}")
assert difference < 0.01

# %% [markdown]
# ## How good are they?
#
# The sliced Wasserstein distance says how far points must be moved, on average over directions, to
# become others. These two draws of 2,000 points are 0.03 apart: no model needs to be better.


# %%
def distance(points):
    return sliced_wasserstein(np.asarray(points), swiss_roll(2_000, 0.1, 1)[0])


between_data = distance(swiss_roll(2_000, 0.1, 2)[0])
from_noise, from_samples = distance(x_T), distance(samples)
print(f"noise {from_noise:.3f}, samples {from_samples:.3f}, fresh data {between_data:.3f}")
assert abs(between_data - 0.03) < 0.005

# %% [markdown]
# The checkpoints of the run show how it learned:

# %%
config = swiss_roll_config().train
saved = range(config.save_every, config.steps + 1, config.save_every)
learned = [ddpm_jax.load("swiss_roll", checkpoint=step).sample().samples for step in saved]
columns = [f"{step:,} steps" for step in saved]
show(plots.trajectory, "4-learning.png", np.stack(learned), columns=columns)

# %% [markdown]
# ## Fewer steps
#
# Nothing says that a sampler must visit all times: equation (4) of the package's `gaussian` is the
# posterior for any $s < t$. DDIM (Song et al. 2021) adds no noise at all, and multistep methods
# remember earlier predictions. On CIFAR-10:
#
# | steps | FID | |
# | --- | --- | --- |
# | 1000 | 3.17 | Ho et al. 2020, $\sigma_t^2 = \beta_t$ |
# | 10, 20, 50, 100 | 13.36, 6.84, 4.67, 4.16 | DDIM: Song et al. 2021, table 1 |
#
# Here are ten steps on our roll:

# %%
names = ("ddpm", "ddim", "dpmpp")
few = {name: run.sample(sampler=name, steps=10).samples for name in names}
in_ten = {name: distance(points) for name, points in few.items()}
print(", ".join(f"{name} {value:.3f}" for name, value in in_ten.items()))
show(plots.trajectory, "4-ten-steps.png", np.stack([*few.values()]), columns=[*few])

# %% [markdown]
# Ancestral sampling loses most: its noise is made for small steps.
#
# ## In the package
#
# | here | paper | function |
# | --- | --- | --- |
# | the chain | algorithm 2 | `sample(sampler, denoiser, x_T, rows=…, keys=…)` |
# | $\sigma_t^2 = \tilde\beta_t$ or $\beta_t$ | section 3.2 | `variance="posterior"` or `"beta"` |
# | samplers | | `SAMPLERS`, `make_sampler(name, schedule)`; `ddpm sample RUN --sampler ddim` |
# | which times | | `TIME_GRIDS`, `make_time_grid(name, schedule, steps)` |
# | all of it, of a run | | `run.sample(num, seed=0, sampler="ddim", steps=10)` |
