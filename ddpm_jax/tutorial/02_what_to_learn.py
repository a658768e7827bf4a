# %% [markdown]
# # What a network must learn
#
# The way back: posteriors, the best possible denoiser, and its score.
#
# If we know $x_0$, one step back is a Gaussian too (Ho et al. 2020, equations 6 and 7):
#
# $$q(x_{t-1} \mid x_t, x_0) = \mathcal N\bigl(\tilde\mu_t, \tilde\beta_t I\bigr),\quad
#   \tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t} x_0
#   + \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t} x_t,\quad
#   \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\beta_t$$
#
# with $\alpha_t = 1-\beta_t$. A sampler does not know $x_0$. It puts a guess $\hat x_0(x_t)$ in its
# place, and that guess is all that a network must learn.

# %%
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import plots
from ddpm_jax.data import open_source, to_unit
from ddpm_jax.data.points import swiss_roll
from ddpm_jax.data.settings import DigitsData
from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    at,
    make_sampler,
    make_schedule,
    make_time_grid,
    plan_chain,
    predict,
    q_posterior,
    q_sample,
    sample,
    sample_noise,
)
from ddpm_jax.plots.style import new_figure, save
from ddpm_jax.tutorial.support import show

schedule = make_schedule("sigmoid", 100, beta_T=0.2)
points = jnp.asarray(swiss_roll(1_000, 0.1, 0)[0], jnp.float32)

# %% [markdown]
# The package has the posterior for any $s < t$. At $s = t-1$ it is the paper's:

# %%
t, before = jnp.array(40), jnp.array(39)
x_t = q_sample(schedule, points, t, jax.random.normal(jax.random.key(0), points.shape))
beta, alpha_bar, alpha_bar_before = schedule.beta[40], *schedule.alpha_bar[[40, 39]]
mean = np.sqrt(alpha_bar_before) * beta / (1 - alpha_bar) * points
mean += np.sqrt(1 - beta) * (1 - alpha_bar_before) / (1 - alpha_bar) * x_t
ours, variance = q_posterior(schedule, points, x_t, t=t, s=before)
np.testing.assert_allclose(ours, mean, atol=1e-5)
np.testing.assert_allclose(variance, (1 - alpha_bar_before) / (1 - alpha_bar) * beta, rtol=1e-4)

# %% [markdown]
# ## The best guess
#
# With the squared error, the best guess is the mean of all $x_0$ that may have led to $x_t$. For a
# finite set of examples we can compute it: each one counts by how likely it leads to $x_t$.
#
# $$\hat x_0(x_t) = E[x_0 \mid x_t] = \sum_i w_i\, x^{(i)},\qquad
#   w \propto \exp\Bigl(-\frac{\|x_t-\sqrt{\bar\alpha_t}\,x^{(i)}\|^2}{2(1-\bar\alpha_t)}\Bigr)$$
#
# This is a *denoiser*: a function from $(x_t, t)$ to a prediction, which is all that the package's
# samplers see. `predict` turns any kind of output into a prediction of both $x_0$ and $\epsilon$.


# %%
def log_weights(data, x_t, t):
    scale, sigma = at(schedule.sqrt_alpha_bar, t, 2), at(schedule.sqrt_one_minus_alpha_bar, t, 2)
    squares = ((x_t.reshape(len(x_t), 1, -1) - scale * data.reshape(1, len(data), -1)) ** 2).sum(-1)
    return -squares / (2 * sigma**2)


def best_denoiser(data):
    def denoiser(x_t, t):
        weights = jax.nn.softmax(log_weights(data, x_t, t))
        x_0 = (weights @ data.reshape(len(data), -1)).reshape(x_t.shape)
        return predict(PARAMETERIZATIONS["x_0"], schedule, x_0, x_t=x_t, t=t)

    return denoiser


def guesses(data, x_0, times):
    eps = jax.random.normal(jax.random.key(1), x_0.shape)
    x_t = [q_sample(schedule, x_0, jnp.array(t), eps) for t in times]
    x_0_hat = [best_denoiser(data)(x, jnp.array(t)).x_0 for x, t in zip(x_t, times, strict=True)]
    return np.stack([x_t, x_0_hat])


times = [1, 20, 40, 50, 60, 75, 100]
names = ["$x_t$", r"$\hat x_0$"]
show(plots.trajectory, "2-points.png", guesses(points, points, times), columns=times, rows=names)

# %% [markdown]
# The more noise, the less is known: at $t = 100$ the best guess is the mean of all the data. So one
# guess is not enough to draw a sample, and sampling goes many small steps. Digits do the same:

# %%
source = open_source(DigitsData())
digits = to_unit(jnp.asarray(source.gather(np.arange(len(source))).examples))
rows = guesses(digits, digits[25:26], times)[:, :, 0]
show(plots.trajectory, "2-digits.png", rows, columns=times, rows=names)

# %% [markdown]
# ## The score
#
# The noise that the guess implies is the direction in which the density of $x_t$ falls:
# $\nabla \log q(x_t) = -\hat\epsilon(x_t)/\sqrt{1-\bar\alpha_t}$. JAX differentiates the density
# itself, so that we can check it:

# %%
x, t = x_t[:200], jnp.array(40)
gradient = jax.grad(lambda x: jax.nn.logsumexp(log_weights(points, x, t), axis=1).sum())(x)
score = -best_denoiser(points)(x, t).eps / at(schedule.sqrt_one_minus_alpha_bar, t, 2)
np.testing.assert_allclose(score, gradient, rtol=1e-3, atol=1e-2)


# %%
def arrows(path, times):
    axis = jnp.linspace(-1.8, 1.8, 19)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    figure = new_figure(3 * len(times), 3.2, layout="constrained")
    for panel, t in zip(figure.subplots(1, len(times)), times, strict=True):
        towards = np.asarray(-best_denoiser(points)(grid, jnp.array(t)).eps)
        scale = at(schedule.sqrt_alpha_bar, jnp.array(t), 2)
        panel.scatter(*np.asarray(scale * points).T, s=2, color="#d9622b", alpha=0.5)
        panel.quiver(*np.asarray(grid).T, *towards.T, color="#2f6db3", scale=30, width=0.005)
        panel.set(title=f"t = {t}", xticks=[], yticks=[], aspect="equal")
    save(path, figure)


show(arrows, "2-score.png", [20, 40, 60, 80])

# %% [markdown]
# ## Three things to predict
#
# $x_t$ is known, so a network may as well predict the noise, or $v$; each gives the others.
#
# | target | | source |
# | --- | --- | --- |
# | `eps` | $\epsilon = (x_t - \sqrt{\bar\alpha_t}\,x_0)/\sqrt{1-\bar\alpha_t}$ | Ho et al. 2020 |
# | `x_0` | $x_0$ | Ho et al. 2020, section 3.2 |
# | `v` | $\sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$ | Salimans & Ho 2022 |
#
# With the true output, all of them give the same prediction:

# %%
eps = jax.random.normal(jax.random.key(3), points.shape)
x_t = q_sample(schedule, points, t, eps)
for name, row in PARAMETERIZATIONS.items():
    found = predict(row, schedule, row.target(schedule, points, eps, t), x_t=x_t, t=t)
    np.testing.assert_allclose(found.x_0, points, atol=1e-5, err_msg=name)

# %% [markdown]
# ## Why not use the best denoiser?
#
# Because it only knows its examples: every digit that it draws is one of them. A network can't
# learn all examples by heart, and so it draws what lies between them.

# %%
sampler = make_sampler("ddpm", schedule)
keys = jax.random.split(jax.random.key(4), 20)
rows = plan_chain(sampler, schedule, make_time_grid("strided", schedule, schedule.T))
x_T = sample_noise(keys, (8, 8, 1))
drawn, _ = sample(sampler, best_denoiser(digits), x_T, rows=rows, keys=keys)
nearest = abs(drawn[:, None] - digits).mean(axis=(2, 3, 4)).min(axis=1)
print(f"largest distance to the nearest digit: {nearest.max():.5f} a pixel")
assert nearest.max() < 0.01

# %% [markdown]
# ## In the package
#
# | here | equation | function |
# | --- | --- | --- |
# | one step back | 6, 7 | `q_posterior(schedule, x_0, x_t, t=t, s=s)` |
# | output to $(\hat x_0, \hat\epsilon)$ | 15 | `predict(row, schedule, output, x_t=x_t, t=t)` |
# | a denoiser | | any function `(x_t, t) -> Prediction` |
