"""Chains of any sampler in float64, and the probability-flow ODE's exact solution beside them.

A sampler's own step runs with the coefficients of its plan as they are, not rounded to float32.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from ddpm_jax.diffusion import NoiseSchedule, Parameterization, Sampler, continuous, make_schedule
from ddpm_jax.diffusion.samplers.contract import Row
from ddpm_jax.typing import Prediction
from tests.diffusion.mixture import THREE_BLOBS

# Wider blobs: with these an order shows itself in few steps.
BLOBS = THREE_BLOBS._replace(scales=np.array([0.3, 0.4, 0.3]))
SCHEDULE = make_schedule("linear", 1000)
X = np.random.default_rng(0).normal(size=(16, 2))
_predict = jax.jit(BLOBS.given)


def scales(t: float, schedule: NoiseSchedule = SCHEDULE) -> tuple[Any, Any]:
    """The scales of data and noise at any time."""
    tables = continuous(schedule, np.array([t], float))
    return tables.sqrt_alpha_bar[0], tables.sqrt_one_minus_alpha_bar[0]


def denoiser_of(
    parameterization: Parameterization | None = None, schedule: NoiseSchedule = SCHEDULE
) -> Callable[..., Prediction]:
    """The exact denoiser at any time, through a network's output if a parameterization is given."""

    def denoise(x_t, t):
        exact = _predict(x_t, *scales(t, schedule))
        if parameterization is None:
            return exact
        # Networks put out float32.
        tables, index = continuous(schedule, np.array([t], float)), jnp.asarray(0, jnp.int32)
        output = parameterization.target(tables, exact.x_0, exact.eps, index)
        return parameterization.to_prediction(tables, output, x_t, index)

    return denoise


def follow(
    sampler: Sampler,
    times: np.ndarray,
    denoiser: Callable[..., Prediction],
    x: np.ndarray = X,
) -> list[np.ndarray]:
    """The chain's x at every time, in float64; every step gets the same keys."""
    keys = jax.vmap(jax.random.key)(jnp.arange(len(x)))
    with jax.enable_x64(True):
        carry = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), sampler.init(jnp.asarray(x)))
        carry, found, plan = carry._replace(x=jnp.asarray(x)), [x], sampler.plan(times)
        for i, (t, s) in enumerate(pairwise(times)):
            c = jax.tree.map(lambda leaf, i=i: leaf[i], plan)
            carry = sampler.step(denoiser, carry, Row(t, s, i, c, None), keys)
            found.append(np.asarray(carry.x))
        return found


@cache
def exact(t: float, s: float) -> np.ndarray:
    """x at s of the ODE from X at t: dx̄ = eps dσ̄, with x̄ = x/α and σ̄ = σ/α."""
    (data, noise), (data_s, noise_s) = scales(t), scales(s)

    def slope(log_noise, x):
        data = 1 / np.sqrt(1 + np.exp(2 * log_noise))
        noise = np.sqrt(1 - data**2)
        eps = _predict(jnp.asarray(x.reshape(X.shape)) * data, data, noise).eps
        return np.exp(log_noise) * np.asarray(eps).ravel()

    ends = np.log(noise / data), np.log(noise_s / data_s)
    with jax.enable_x64(True):
        found = solve_ivp(slope, ends, (X / data).ravel(), method="DOP853", rtol=1e-11, atol=1e-11)
    return found.y[:, -1].reshape(X.shape) * data_s


def slopes(sampler: Sampler, chains: list[np.ndarray]) -> np.ndarray:
    """The order of the error at the end of chains whose number of steps doubles."""
    denoiser = denoiser_of()
    errors = [
        np.abs(follow(sampler, times, denoiser)[-1] - exact(times[0], times[-1])).max()
        for times in chains
    ]
    return -np.diff(np.log2(errors))
