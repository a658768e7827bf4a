"""What a sampler is: four pure functions that go from x_T to x_0, given a denoiser.

`plan` computes on the host, in float64, all that depends on times alone; `step` uses it inside the
compiled program. A step calls the denoiser itself, so a method may call it twice, or keep what it
saw in its carry.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.typing import Denoiser, Examples, Keys


@runtime_checkable
class Carry(Protocol):
    """What a sampler passes from step to step: a pytree that shows x_t and the last x̂_0.

    It may hold anything else that jax can scan: earlier predictions, or numbers without a batch.
    """

    @property
    def x(self) -> Examples: ...

    @property
    def x_0(self) -> Examples: ...


class SamplerState(NamedTuple):
    """The carry of a sampler that remembers nothing else."""

    x: Examples
    x_0: Examples


class Renoising(NamedTuple):
    """Whether an interval goes up, and q(x_t | x_s) if it does: equation (3) of `gaussian`."""

    rises: Bool[Any, "*rows"]
    scale: Float[Any, "*rows"]
    noise_scale: Float[Any, "*rows"]


class Row(NamedTuple):
    """One interval of a chain; with a leading axis, all intervals of a chain or of a piece.

    A step goes from t to s. A renoising goes up, from t to s > t.
    """

    t: Int[Any, "*rows"] | Float[Any, "*rows"]
    s: Int[Any, "*rows"] | Float[Any, "*rows"]
    draw: Int[Any, "*rows"]
    """The number of the interval's noise, t + visit · (T + 1): no two intervals share one."""
    coefficients: Any
    """What the sampler's plan computed for this interval; zeros where the interval goes up."""
    renoising: Renoising | None
    """None for a chain that only falls."""


class Sampler(NamedTuple):
    """One sampling method.

    `plan(times) -> coefficients`: `times` is a NumPy array `[n + 1]` that falls (or rises, see
    below), whole or fractional. The result is a pytree of NumPy arrays with a leading axis of n;
    the chain rounds it to float32. A plan sees all times, so it may lower the order at the end.

    `init(x) -> carry` starts at the first time of a chain, and again after each renoising.

    `step(denoiser, carry, row, keys) -> carry` goes from `row.t` to `row.s`. The new carry holds
    x_s and the x̂_0 of the last call of the denoiser. keys `[B]` are for this step alone.

    `calls(times) -> int` is the number of calls of the denoiser over these times.

    `upward` says what an interval that goes up means: "renoise" adds noise by q(x_t | x_s), and
    "step" is a step of the method itself, as in inversion by an ODE. Such a step starts at t = 0
    too, where the method must call the denoiser at t = 1 instead.

    `learned_variance` says whether a step needs the variance that the network predicts.

    `grid` names the row of `TIME_GRIDS` that suits the method: a config's grid `auto`.
    """

    plan: Callable[[Any], Any]
    init: Callable[[Examples], Any]
    step: Callable[[Denoiser, Any, Row, Keys], Any]
    calls: Callable[[Any], int]
    upward: Literal["renoise", "step"] = "renoise"
    learned_variance: bool = False
    grid: str = "strided"


class SamplerOperator(NamedTuple):
    """A sampler made of another one, with data for each sample, as RePaint is."""

    apply: Callable[[Sampler, NoiseSchedule, Any], Sampler]
    """(sampler, schedule, data) -> sampler. Its plan must not depend on the data, which are None
    where a chain is planned. A carry is a NamedTuple, so a step may replace its `x`."""
    data: Any
    """A tree of arrays `[num, …]`; a step gets the rows of its batch."""


def start(x: Examples) -> SamplerState:
    """Returns the carry of a sampler without history, before its first step."""
    x = x.astype(jnp.float32)
    return SamplerState(x, jnp.zeros_like(x))


def one_call_a_step(times: Any) -> int:
    """Returns the number of intervals between the times."""
    return len(times) - 1


def standard_normal(keys: Keys, shape: tuple[int, ...]) -> Examples:
    """Returns `[B, *shape]`, each example from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
