"""How training draws its timesteps: uniformly (Ho et al. 2020, algorithm 1), or by a history.

With a history t is drawn where the loss L_t is large, and a weight keeps the mean unbiased:

(31)  p_t = (1 - u) sqrt(E L_t²) / Σ_i sqrt(E L_i²) + u/T,  with the weight 1/(T p_t)

That is Nichol & Dhariwal 2021, equation 18; E is over the last losses of each t, and the share u of
uniform draws, which their code has, keeps every history growing.

To add one, write a function of T, whose keyword-only parameters are its options, that returns a
TimestepSampler. Its state is a pytree of arrays; training carries it from step to step, saves it,
and keeps it whole on every device.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddpm_jax.errors import shown
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


class LossHistory(NamedTuple):
    """The last losses of each t; row t - 1 is that of t."""

    losses: Float[Array, "T history"]
    """The newest is the last."""
    counts: Int[Array, " T"]
    """How many of them were seen."""


def importance(
    T: int,
    *,
    history: Annotated[int, "Losses of each t that are kept."] = 10,
    uniform: Annotated[float, "Share of draws that are uniform."] = 0.001,
) -> TimestepSampler:
    """Draws t by equation (31), and uniformly until each t has a full history.

    Raises ValueError unless history is in 1 … 10,000 and `uniform` is in (0, 1].
    """
    if not 1 <= history <= 10_000:
        raise ValueError(f"history is {shown(history)}; it must be in 1 … 10,000")
    if not 0 < uniform <= 1:
        raise ValueError(f"uniform is {uniform!r}; it must be above 0 and at most 1")

    def init() -> LossHistory:
        return LossHistory(jnp.zeros((T, history)), jnp.zeros((T,), jnp.int32))

    def draw(state: LossHistory, key: jax.Array, count: int) -> tuple[Timesteps, PerExample]:
        size = jnp.sqrt((state.losses**2).mean(axis=1))
        total = size.sum()
        known = (state.counts == history).all() & (total > 0)
        share = jnp.where(known, size / jnp.where(total > 0, total, 1), 1 / T)
        p = (1 - uniform) * share + uniform / T
        t = 1 + jax.random.choice(key, T, (count,), p=p).astype(jnp.int32)
        return t, 1 / (T * p[t - 1])

    def update(state: LossHistory, t: Timesteps, losses: PerExample) -> LossHistory:
        # A loop over the batch would be slow on an accelerator. So each row moves by as many places
        # as it gets losses, and each loss goes where those of its t behind it leave it.
        same = t[:, None] == t[None, :]
        behind = jnp.triu(same, 1).sum(axis=1)
        added = jnp.zeros((T,), jnp.int32).at[t - 1].add(1)
        kept = jnp.arange(history) + added[:, None]
        moved = jnp.take_along_axis(state.losses, jnp.minimum(kept, history - 1), axis=1)
        place = jnp.where(behind < history, history - 1 - behind, history)
        after = moved.at[t - 1, place].set(losses, mode="drop")
        return LossHistory(after, jnp.minimum(state.counts + added, history))

    return TimestepSampler(init, draw, update)


TIMESTEP_SAMPLERS: dict[str, Callable[..., TimestepSampler]] = {
    "uniform": uniform,
    "importance": importance,
}


def make_timestep_sampler(name: str, T: int, **options: Any) -> TimestepSampler:
    """Returns a row of TIMESTEP_SAMPLERS; raises ValueError for an unknown row or option."""
    row = row_with("timestep sampler", TIMESTEP_SAMPLERS, name, options)
    return row(T, **options)
