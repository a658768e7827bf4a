# %% [markdown]
# # Likelihood
#
# How probable the model finds real data: the variational bound, and the exact way by an ODE.
#
# A diffusion model is a latent variable model, and its bound splits into one term for each step
# (Ho et al. 2020, equation 5):
#
# $$-\log p(x_0) \le L_T + \sum_{t>1} \underbrace{D_{KL}\bigl(q(x_{t-1}|x_t,x_0)\,\|\,
#   p_\theta(x_{t-1}|x_t)\bigr)}_{L_{t-1}} + \underbrace{-\log p_\theta(x_0|x_1)}_{L_0}$$
#
# All of them are Gaussians. We count in bits per dimension, so that sizes can be compared.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import ddpm_jax
from ddpm_jax import diffusion as d
from ddpm_jax import plots
from ddpm_jax.diffusion.flow import flow_velocity
from ddpm_jax.tutorial.support import digits_config, scaled, show

# %% [markdown]
# ## Data whose density we know
#
# Let the data be points from $\mathcal N(0, s^2)$. Then the best denoiser is linear, and we know
# what each point costs. So we see how much the bound loses by itself, without any error of a
# network.

# %%
s = 0.5
x_0 = s * jax.random.normal(jax.random.key(0), (4_096, 2))
truth = 0.5 * (x_0**2 / s**2 + jnp.log(2 * jnp.pi * s**2))  # nats for each dimension
bits = float(truth.mean() / jnp.log(2))


def gaussian_denoiser(schedule):
    times, log_snr = jnp.arange(1, schedule.T + 1), jnp.asarray(schedule.log_snr[1:])

    def denoiser(x_t, t):
        alpha_bar = jax.nn.sigmoid(jnp.interp(t, times, log_snr))
        x_0 = jnp.sqrt(alpha_bar) * s**2 / (alpha_bar * s**2 + 1 - alpha_bar) * x_t
        return d.predict(d.PARAMETERIZATIONS["x_0"], schedule, x_0, x_t=x_t, t=t)

    return denoiser


# %% [markdown]
# The bound: for each $t$ draw $x_t$, guess, and add the divergence. The variance of a reverse step
# lies between $\tilde\beta_t$ and $\beta_t$; a fraction of 1 means $\beta_t$.


# %%
def bound(schedule, x_0, key):
    denoiser = gaussian_denoiser(schedule)

    def term(t):
        eps = jax.random.normal(jax.random.fold_in(key, t), x_0.shape)
        x_t = d.q_sample(schedule, x_0, t, eps)
        found = denoiser(x_t, t)._replace(variance_fraction=jnp.ones_like(x_t))
        more = {"variance": "learned", "decoder": "density"}
        return d.vlb_term(schedule, found, x_0, x_t=x_t, t=t, **more).mean()

    terms = jax.lax.map(term, jnp.arange(1, schedule.T + 1))
    return float(d.vlb_prior(schedule, x_0).mean() + terms.sum())


bounds = {T: bound(d.make_schedule("cosine", T), x_0, jax.random.key(1)) for T in (5, 20, 200)}
for T, value in bounds.items():
    print(f"T = {T:4}: at most {value:.3f} bits, the truth is {bits:.3f}")

# %% [markdown]
# More steps make the bound tighter: the variance $\beta_t$ of a reverse step is not the true one,
# and that matters less the smaller the step is.

# %%
gaps = [value - bits for value in bounds.values()]
assert gaps[0] > gaps[1] > abs(gaps[2])

# %% [markdown]
# ## The exact way
#
# There is a deterministic flow with the same densities at all times (Song et al. 2021). Along it,
# the log-density changes by minus the divergence of the velocity. In $\lambda = \log \mathrm{SNR}$
# it has neither the schedule nor a score in it:
#
# $$\frac{dx}{d\lambda} = -\tfrac12 \alpha\sigma\,(\alpha\hat\epsilon - \sigma\hat x_0),\qquad
#   \frac{d\log p}{d\lambda} = -\nabla\cdot\frac{dx}{d\lambda}$$
#
# So we follow a point up to the noise, add up the divergence, and look up the density there.

# %%
schedule = d.make_schedule("cosine", 1000)
grid = jnp.linspace(schedule.log_snr[1], schedule.log_snr[-2], 401)
denoiser = gaussian_denoiser(schedule)


def log_density(x):
    def rates(x, lam):
        def velocity(x):
            return flow_velocity(schedule, denoiser, x[None], lam)[0]

        return velocity(x), jnp.trace(jax.jacfwd(velocity)(x))

    def step(carry, ends):  # the midpoint method
        (x, change), (a, b) = carry, ends
        middle = x + (b - a) / 2 * rates(x, a)[0]
        velocity, divergence = rates(middle, (a + b) / 2)
        return (x + (b - a) * velocity, change + (b - a) * divergence), None

    (x, change), _ = jax.lax.scan(step, (x, jnp.zeros(())), (grid[:-1], grid[1:]))
    return -0.5 * (x**2 + jnp.log(2 * jnp.pi)).sum() + change


found = jax.jit(jax.vmap(log_density))(x_0[:64])
true = -truth[:64].sum(axis=1)
print(f"largest error: {float(jnp.abs(found - true).max()):.1e} nats")
np.testing.assert_allclose(found, true, atol=0.02)

# %% [markdown]
# ## Digits
#
# For pixels, $L_0$ is the probability of an 8-bit level. A run measures its own bound on real
# pictures. *Rate* is what is sent before the last step, *distortion* is $L_0$ (Ho et al. 2020,
# section 4.3).
#
# | CIFAR-10, bits per dimension | bound | rate | distortion |
# | --- | --- | --- | --- |
# | Ho et al. 2020, $L_\text{simple}$ (tables 1 and section 4.3) | 3.75 | 1.78 | 1.97 |
# | Ho et al. 2020, $L$ with $\beta$ fixed | 3.70 | | |
#
# More than half of the bits of a picture say what nobody can see: the samples look good all the
# same.

# %%
run = ddpm_jax.train(digits_config(), "digits").run
measured = run.evaluate(["bits_per_dim"], num=scaled(128, multiple=16))
print(", ".join(f"{name} {value:.3f}" for name, value in measured.values.items()))

# %% [markdown]
# The terms over $t$, with their sum from $T$ on. Most of the bits are spent at the last steps.

# %%
terms = {name: measured.arrays[name] for name in ("vb", "vb_error", "mse", "x_0_mse")}
show(plots.bound, "8-terms.png", terms)

# %% [markdown]
# ## In the package
#
# | here | paper | function or command |
# | --- | --- | --- |
# | $L_T$, $L_{t-1}$ and $L_0$ | Ho et al. 2020, 5 and 13 | `vlb_prior`, `vlb_term` |
# | a run's bound | | `ddpm evaluate RUN --metrics bits_per_dim` |
# | the flow | Song et al. 2021, 13 and 39 | `flow_velocity(schedule, denoiser, x, log_snr)` |
# | a run's exact likelihood | | `ddpm evaluate RUN --metrics ode_bits_per_dim` |
# | a network that learns its variance | Nichol & Dhariwal 2021 | `--diffusion.objective hybrid` |
