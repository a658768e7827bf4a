"""Moving averages of the parameters: which ones a run keeps, and how each is updated.

To add one, write a function whose keyword-only parameters are its options, and which returns the
decay as a function of the step. `train.averages` names the rows that a run keeps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.tables import choose, settings_for

Decay = Callable[[jax.Array], Any]
"""The decay of the average after update number `step`, float32, counted from 1."""


def warmed_up(*, decay: float = 0.9999) -> Decay:
    """Returns min(decay, (1 + step) / (10 + step)).

    So the average follows the parameters closely at first, and forgets their initial values.
    """
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step))


AVERAGES: dict[str, Callable[..., Decay]] = {"ema": warmed_up}


def make_averages(names: Sequence[str], **settings: Any) -> dict[str, Decay]:
    """Returns the decay of each named row of AVERAGES, given those settings that it takes.

    Raises ValueError for an unknown name, or a setting that no row takes.
    """
    rows = {name: choose("average", AVERAGES, name) for name in names}
    return {
        name: row(**settings_for("average", AVERAGES, row, settings)) for name, row in rows.items()
    }


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
