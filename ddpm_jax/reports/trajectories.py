"""Examples at K times between data and noise, as arrays `[K, B, …]`: what trajectory figures draw.

Times are int `[K]` in 0…T. They rise where data become noise, and fall along a sampling chain.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddpm_jax.diffusion import NoiseSchedule, q_sample, q_step
from ddpm_jax.models.conditioning import NO_CONDITIONING
from ddpm_jax.sampling.denoiser import make_denoiser
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.typing import Conditioning, Examples, RecallingDenoiser


def noised_directly(
    schedule: NoiseSchedule, x_0: Examples, times: np.ndarray, key: jax.Array
) -> np.ndarray:
    """Returns x_t drawn from q(x_t | x_0), `[K, B, …]`, with the same noise at all times.

    With the same noise only the picture changes over time, not the grain. x_0 is `[B, …]`.
    """
    eps = jax.random.normal(key, x_0.shape)
    at_time = jax.jit(jax.vmap(lambda t: q_sample(schedule, x_0, t, eps)))
    return np.asarray(at_time(jnp.asarray(times)))


def noised_stepwise(
    schedule: NoiseSchedule, x_0: Examples, times: np.ndarray, key: jax.Array
) -> np.ndarray:
    """Returns x_t after t steps of q(x_t | x_{t-1}), `[K, B, …]`, with fresh noise in each step.

    x_0 is `[B, …]`; the first time is 0.
    """

    def step(t: jax.Array, x: Examples) -> Examples:
        return q_step(schedule, x, t, jax.random.normal(jax.random.fold_in(key, t), x.shape))

    several_steps = jax.jit(lambda x, s, t: lax.fori_loop(s + 1, t + 1, step, x))
    frames = [x_0]
    for s, t in itertools.pairwise(times):
        frames.append(several_steps(frames[-1], s, t))
    return np.stack(jax.device_get(frames))


def predicted_x_0(
    run: Run,
    x_t: np.ndarray,
    times: np.ndarray,
    labels: jax.Array | None,
    beside: Conditioning = NO_CONDITIONING,
) -> np.ndarray:
    """Returns the network's x̂_0 for each x_t, `[K, B, …]`; at t = 0 that is x_0 itself.

    x̂_0 is clipped as in the run's sampling. It is not guided, because guidance moves it away from
    what the network predicts. `beside` is what the network sees besides x_t and labels.
    """
    conditioning = run.experiment.condition(labels, beside=beside)
    options = dataclasses.replace(run.config.sample, guidance=0.0)
    denoiser = make_denoiser(run.experiment, run.params, conditioning, options)
    if isinstance(denoiser, RecallingDenoiser):  # As at the start of a chain.
        denoiser = denoiser.given(denoiser.init(jnp.asarray(x_t[0])))
    predict = jax.jit(lambda x, t: denoiser(x, t).x_0)
    pairs = zip(jnp.asarray(x_t), jnp.asarray(times), strict=True)
    return np.stack([np.asarray(predict(x, t) if t else x) for x, t in pairs])


def spaced_frames(drawn: Samples, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most `num` frames of sampling chains, `[K, B, …]`, and their times from T to 0.

    They are evenly spaced and include the first and the last. Raises ValueError for samples that
    were drawn without trajectories.
    """
    if drawn.frames is None or drawn.times is None:
        raise ValueError("the samples have no frames: draw them with num_trajectories")
    last = len(drawn.frames) - 1
    kept = np.linspace(0, last, min(num, last + 1)).round().astype(int)
    return drawn.frames[kept], drawn.times[kept]
