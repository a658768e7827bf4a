"""Moving averages of the parameters: which ones a run keeps, and how each is updated.

To add one, write a function whose keyword-only parameters are its options, and which returns the
decay as a function of the step. `train.averages` says which rows a run keeps, each under a name.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.tables import Choice

Decay = Callable[[jax.Array], Any]
"""The decay of the average after update number `step`, float32, counted from 1."""


def warmed_up(*, decay: float = 0.9999) -> Decay:
    """Returns min(decay, (1 + step) / (10 + step)).

    So the average follows the parameters closely at first, and forgets their initial values.
    Raises ValueError for a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}: it must be in [0, 1)")
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step))


AVERAGES: dict[str, Callable[..., Decay]] = {"ema": warmed_up}


def make_averages(choices: Mapping[str, Choice]) -> dict[str, Decay]:
    """Returns the decay of each average by its name; raises ValueError as the rows do."""
    return {name: AVERAGES[row.name](**row.options) for name, row in choices.items()}


def ema_init(averages: Mapping[str, Decay], params: Any) -> dict[str, Any]:
    """Returns a copy of the parameters for each average.

    The state is donated to each step, so two of its leaves must not share a buffer.
    """
    return {name: jax.tree.map(jnp.copy, params) for name in averages}


def ema_update(averages: Mapping[str, Decay], ema: Any, params: Any, step: jax.Array) -> Any:
    """Moves each average towards the parameters after update number `step` (counted from 1)."""
    step = step.astype(jnp.float32)

    def moved(decay: Any, average: Any) -> Any:
        return jax.tree.map(lambda old, new: new + decay * (old - new), average, params)

    return {name: moved(decay(step), ema[name]) for name, decay in averages.items()}
