"""What training carries from step to step, and how its average is formed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.experiment import Experiment
from ddpm_jax.runtime.random import stream_key


class TrainState(NamedTuple):
    """Everything that the next step needs and (config, seed) do not give.

    No hyperparameter and no key is in it: an edited config takes effect on resume. All arrays are
    float32 but the counters.
    """

    step: jax.Array
    """int32, how many steps have been made: the next batch, and all that is random about it."""
    params: Any
    ema: Any
    opt_state: Any
    bad: jax.Array
    """int32, how many of the last steps, in a row, gave no update, for want of finite numbers.

    It lies here because the run's course depends on it: counted by the host, it would begin anew
    with every restart, and a killed run would give up or go back at other steps than an unbroken
    one.
    """


def init_state(experiment: Experiment) -> TrainState:
    """Draws the parameters from the run's seed; pure, so `jax.eval_shape` gives its shapes."""
    params = experiment.init_params(stream_key(experiment.config.seed, "init"))
    opt_state = experiment.optimizer.init(params)
    # A copy: the state is donated, and two leaves of it must not be one buffer.
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, ema, opt_state, jnp.zeros((), jnp.int32))


def ema_update(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """Moves the average towards the parameters after update number `step` (counted from 1).

    The decay is min(decay, (1 + step) / (10 + step)), so that the average follows the parameters
    at first and forgets where they began.
    """
    step = step.astype(jnp.float32)
    now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda average, value: value + now * (average - value), ema, params)
