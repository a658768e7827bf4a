# %% [markdown]
# # From data to noise
#
# The forward process: a little noise in each step, or all of it at once.
#
# A diffusion model learns to undo noise. So first we make noise, in a way that we can describe
# exactly. Let $x_0$ be an example of the data. In each of $T$ steps we shrink it a little and add a
# little noise (Ho et al. 2020, equation 2):
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\bigl(\sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\bigr)$$
#
# The variances $\beta_1 \dots \beta_T$ are the *noise schedule*. We choose it; nothing is learned.

# %%
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import plots
from ddpm_jax.data import open_source, to_unit
from ddpm_jax.data.points import POINT_SETS
from ddpm_jax.data.settings import DigitsData
from ddpm_jax.diffusion import make_schedule, q_sample, q_step, vlb_prior
from ddpm_jax.tutorial.support import show

# %% [markdown]
# ## The data
#
# Our data are points in the plane, which train in seconds and can be judged by eye, and pictures of
# handwritten digits. Here are three shapes, each divided by its standard deviation:

# %%
shapes = {name: POINT_SETS[name](2_000, 0.05, 0)[0] for name in ("swiss_roll", "s_curve", "moons")}
shapes = {name: (points - points.mean(0)) / points.std() for name, points in shapes.items()}
show(plots.trajectory, "1-shapes.png", np.stack([*shapes.values()]), columns=[*shapes])

# %% [markdown]
# ## Schedules
#
# The package has four. With $\bar\alpha_t = \prod_{s\le t}(1-\beta_s)$, the first panel is how much
# of the data is left, $\sqrt{\bar\alpha_t}$, the second how much noise there is.

# %%
schedules = {name: make_schedule(name, 1000) for name in ("linear", "quadratic", "sigmoid")}
schedules["cosine"] = make_schedule("cosine", 1000)
curves = {name: np.asarray(schedule.alpha_bar) for name, schedule in schedules.items()}
show(plots.schedules, "1-schedules.png", curves)

# %% [markdown]
# ## Step by step
#
# `q_step` is the equation above. Here it is by hand for one step, and by the package. Both get the
# noise as an argument: a random number never comes out of nowhere in JAX.

# %%
schedule = make_schedule("linear", 100, beta_1=1e-3, beta_T=0.2)
x_0 = jnp.asarray(shapes["swiss_roll"], jnp.float32)
eps = jax.random.normal(jax.random.key(0), x_0.shape)

beta_1 = schedule.beta[1]
by_hand = np.sqrt(1 - beta_1) * x_0 + np.sqrt(beta_1) * eps
np.testing.assert_allclose(q_step(schedule, x_0, jnp.array(1), eps), by_hand, atol=1e-6)

# %% [markdown]
# The whole chain is this step in a loop. `jax.lax.scan` is JAX's loop: it is compiled once, and
# returns the state after each step.


# %%
def step(x, t):
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), t), x.shape)
    x = q_step(schedule, x, t, noise)
    return x, x


def stepwise(x_0):
    return np.concatenate([x_0[None], jax.lax.scan(step, x_0, jnp.arange(1, schedule.T + 1))[1]])


# %% [markdown]
# ## All at once
#
# A sum of Gaussians is a Gaussian, so we may jump to any $t$ (Ho et al. 2020, equation 4):
#
# $$q(x_t \mid x_0) = \mathcal N\bigl(\sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\bigr)$$
#
# That is `q_sample`. The two rows below are not the same points, but the same distribution:


# %%
def at_once(x_0, times, key=jax.random.key(2)):  # noqa: B008
    noise = jax.random.normal(key, x_0.shape)
    return np.stack([q_sample(schedule, x_0, jnp.array(t), noise) for t in times])


times = [0, 5, 10, 20, 30, 50, 100]
rows = np.stack([stepwise(x_0)[times], at_once(x_0, times)])
show(plots.trajectory, "1-points.png", rows, columns=times, rows=["step by step", "at once"])

# %% [markdown]
# Digits become noise in the same way. Pixels are scaled to $[-1, 1]$, as in the paper.

# %%
digits = to_unit(jnp.asarray(open_source(DigitsData()).gather(np.arange(8)).examples))
times = [0, 1, 10, 25, 40, 70, 100]
rows = np.stack([stepwise(digits)[times, 3], at_once(digits, times)[:, 3]])
show(plots.trajectory, "1-digits.png", rows, columns=times, rows=["step by step", "at once"])

# %% [markdown]
# So do photographs; this one comes with scikit-learn.

# %%
from sklearn.datasets import load_sample_image  # noqa: E402

flower = jnp.asarray(load_sample_image("flower.jpg")[100:340:2, 100:420:2] / 127.5 - 1, jnp.float32)
rows = np.stack([stepwise(flower[None])[times, 0], at_once(flower[None], times)[:, 0]])
show(plots.trajectory, "1-flower.png", rows, columns=times, rows=["step by step", "at once"])

# %% [markdown]
# ## The end must be noise
#
# Sampling will start from pure noise, so $x_T$ must be that. What is left of the data:
#
# | schedule | $\sqrt{\bar\alpha_T}$ | variance of the noise |
# | --- | --- | --- |
# | Ho et al. 2020: linear, $T = 1000$, $\beta$ from $10^{-4}$ to 0.02 | 0.0064 | 0.99996 |
# | a class's notebook: linear, $T = 10$, $\beta$ from 0.1 to 0.8 | 0.0308 | 0.9991 |
#
# The paper measures it as $L_T = D_{KL}(q(x_T|x_0)\,\|\,\mathcal N(0, I))$, which it gives as about
# $10^{-5}$ bits per dimension. On the digits it is $2 \cdot 10^{-5}$.

# %%
ho, ten = schedules["linear"], make_schedule("linear", 10, beta_1=0.1, beta_T=0.8)
np.testing.assert_allclose([ho.sqrt_alpha_bar[-1], 1 - ho.alpha_bar[-1]], [0.0064, 0.99996], 1e-2)
np.testing.assert_allclose([ten.sqrt_alpha_bar[-1], 1 - ten.alpha_bar[-1]], [0.0308, 0.9991], 2e-3)
prior = float(vlb_prior(ho, digits).mean())
print(f"L_T on the digits: {prior:.1e} bits per dimension")
assert 1e-5 < prior < 3e-5

# %% [markdown]
# ## In the package
#
# | here | equation | function |
# | --- | --- | --- |
# | schedule | $\beta_t$, $\bar\alpha_t$ | `make_schedule(name, T)`, `at(table, t, ndim)` |
# | one step | 2 | `q_step(schedule, x_prev, t, eps)` |
# | all at once | 4 | `q_sample(schedule, x_0, t, eps)` |
# | what is left | $L_T$ | `vlb_prior(schedule, x_0)`; `unfit_ends(schedule)` warns |
