"""How training draws its timesteps: uniformly (Ho et al. 2020, algorithm 1), or by a history.

To add one, write a function of T, whose keyword-only parameters are its options, that returns a
TimestepSampler. Its state is a pytree of arrays; training carries it from step to step, saves it,
and keeps it whole on every device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ddpm_jax.tables import row_with
from ddpm_jax.typing import PerExample, Timesteps


class TimestepSampler(NamedTuple):
    """A distribution over 1…T that may depend on the losses seen so far; all functions are pure."""

    init: Callable[[], Any]
    """`() -> state`; None for a sampler without a history."""
    draw: Callable[[Any, jax.Array, int], tuple[Timesteps, PerExample | None]]
    """`(state, key, count) -> (t, weight)`: int32 `[count]` in 1…T, and float32 `[count]` by which
    each loss is multiplied so that their mean stays unbiased, or None for no weights."""
    update: Callable[[Any, Timesteps, PerExample], Any]
    """`(state, t, losses) -> state`, with the losses `[count]` of a step before any weight of
    `draw`."""


def uniform(T: int) -> TimestepSampler:
    """Draws every t in 1…T with the same probability."""

    def draw(state: Any, key: jax.Array, count: int) -> tuple[Timesteps, None]:
        del state
        return jax.random.randint(key, (count,), 1, T + 1), None

    return TimestepSampler(init=lambda: None, draw=draw, update=lambda state, t, losses: state)


TIMESTEP_SAMPLERS: dict[str, Callable[..., TimestepSampler]] = {"uniform": uniform}


def make_timestep_sampler(name: str, T: int, **options: Any) -> TimestepSampler:
    """Returns a row of TIMESTEP_SAMPLERS; raises ValueError for an unknown row or option."""
    row = row_with("timestep sampler", TIMESTEP_SAMPLERS, name, options)
    return row(T, **options)
