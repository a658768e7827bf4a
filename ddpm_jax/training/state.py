"""The training state: what one step hands to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.averages import ema_init, make_averages
from ddpm_jax.experiment import Experiment
from ddpm_jax.runtime.random import stream_key


class TrainState(NamedTuple):
    """Everything that the next step needs and that (config, seed) do not determine.

    It holds no hyperparameter and no key, so an edited config takes effect on resume. All arrays
    are float32 except the counters.
    """

    step: jax.Array
    """int32, how many steps have been made. It determines the next batch and its random draws."""
    params: Any
    ema: dict[str, Any]
    """A tree like `params` for each average, by its name."""
    opt_state: Any
    nonfinite: jax.Array
    """int32, how many of the last steps in a row made no update because they were not finite.

    It is part of the state so that a restart continues the count: a run that was killed must give
    up or roll back at the same steps as one that was not.
    """
    timesteps: Any = None
    """The state of the timestep sampler; None for a sampler without a history."""


def init_state(experiment: Experiment, seed: int | jax.Array) -> TrainState:
    """Draws the parameters from the run's seed."""
    return first_state(experiment, experiment.init_params(stream_key(seed, "init")))


def first_state(experiment: Experiment, params: Any) -> TrainState:
    """Returns the state before the first step; pure, so `jax.eval_shape` gives its shapes."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=ema_init(make_averages(experiment.config.train.averages), params),
        opt_state=experiment.optimizer.init(params),
        nonfinite=jnp.zeros((), jnp.int32),
        timesteps=experiment.timestep_sampler.init(),
    )
