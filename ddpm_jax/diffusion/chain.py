"""Chains: a sampler along any list of times, with the noise of each interval fixed by its time.

A chain is a list of times. An interval that goes down is a step of the sampler. One that goes up is
a renoising by q(x_t | x_s), after which the sampler starts again, because its history is of another
x. `plan_chain` computes on the host, from the whole list, what each interval needs; `advance`
follows all of it, or a piece of it, in a compiled program.

Keys are per sample. A sample's noise depends on its own key, the time and how often the chain has
started an interval there, so it depends neither on the other samples in the batch nor on how the
chain is cut into pieces. A chain that only falls starts at each time once.
"""

import itertools
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ddpm_jax.diffusion.checks import check_examples, check_keys, check_prediction, checked
from ddpm_jax.diffusion.gaussian import q_conditional
from ddpm_jax.diffusion.samplers.contract import Renoising, Row, Sampler, standard_normal
from ddpm_jax.diffusion.schedules import NoiseSchedule, indexed
from ddpm_jax.typing import Denoiser, Examples, Keys, Prediction, RecallingDenoiser


def plan_chain(sampler: Sampler, schedule: NoiseSchedule, times: np.ndarray) -> Row:
    """Returns the rows of all intervals between `times` `[n + 1]`, as NumPy arrays `[n, …]`.

    Times are in 0…T, whole or fractional, and two neighbours differ. Coefficients are rounded once,
    from float64 to float32. Raises ValueError for a list that is no chain.
    """
    times = np.asarray(times)
    up = _rises(schedule, times)
    pieces = _pieces(sampler, up)
    plans = [sampler.plan(times[a : b + 1]) if stepping else None for a, b, stepping in pieces]
    template = next((plan for plan in plans if plan is not None), None)
    if template is None:  # A chain of renoisings alone: its coefficients are zeros all the same.
        template = sampler.plan(np.array([1, 0]))
    filled = [
        jax.tree.map(lambda x, n=b - a: np.zeros((n, *x.shape[1:])), template)
        if plan is None
        else plan
        for (a, b, _), plan in zip(pieces, plans, strict=True)
    ]
    renoising = None
    if not all(stepping for _, _, stepping in pieces):
        renoising = _renoising(schedule, times, up)
    coefficients = jax.tree.map(lambda *x: np.concatenate(x).astype(np.float32), *filled)
    whole = np.issubdtype(times.dtype, np.integer)
    rounded = times.astype(np.int32 if whole else np.float32)
    return Row(rounded[:-1], rounded[1:], _draws(schedule, times), coefficients, renoising)


def chain_calls(sampler: Sampler, times: np.ndarray) -> int:
    """Returns how often a whole chain calls its denoiser; renoisings don't."""
    pieces = _pieces(sampler, np.diff(times) > 0)
    return sum(sampler.calls(times[a : b + 1]) for a, b, stepping in pieces if stepping)


def _rises(schedule: NoiseSchedule, times: np.ndarray) -> np.ndarray:
    """Returns which intervals go up, bool `[n]`, having checked the times."""
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"a chain needs a list of at least two times, not {times.tolist()}")
    outside = times[~((times >= 0) & (times <= schedule.T))]
    if outside.size:
        raise ValueError(f"a chain's times are in 0…{schedule.T}; {outside[0]} is not")
    still = np.flatnonzero(np.diff(times) == 0)
    if still.size:
        raise ValueError(
            f"a chain stays at t = {times[still[0]]}; each time must differ from the last"
        )
    return np.diff(times) > 0


def _pieces(sampler: Sampler, up: np.ndarray) -> list[tuple[int, int, bool]]:
    """Returns the stretches [a, b] that only fall or only rise, and whether they are steps."""
    turns = [0, *(np.flatnonzero(np.diff(up)) + 1).tolist(), len(up)]
    return [(a, b, sampler.upward == "step" or not up[a]) for a, b in itertools.pairwise(turns)]


def _renoising(schedule: NoiseSchedule, times: np.ndarray, up: np.ndarray) -> Renoising:
    tables, index = indexed(schedule, times)
    low, high = np.where(up, index[:-1], index[1:]), np.where(up, index[1:], index[:-1])
    scale, variance = q_conditional(tables, t=high, s=low, ndim=1)
    return Renoising(up, scale.astype(np.float32), np.sqrt(variance).astype(np.float32))


def _draws(schedule: NoiseSchedule, times: np.ndarray) -> np.ndarray:
    """Returns t + visit · (T + 1) of each interval's first time, fractional ones rounded down."""
    # The noise that a chain starts from is the first visit of 0.
    visits, draws = Counter({0: 1}), []
    for t in np.floor(times[:-1]).astype(int).tolist():
        draws.append(t + visits[t] * (schedule.T + 1))
        visits[t] += 1
    return np.array(draws, np.int32)


def _keys_at(keys: Keys, draw: Any) -> Keys:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, draw)


def sample_noise(keys: Keys, shape: tuple[int, ...]) -> Examples:
    """Returns x_T `[B, *shape]`, standard normal, from the same keys that the chain will use.

    Raises TypeError for keys that are not typed threefry keys `[B]`.
    """
    check_keys(keys, keys.shape[0] if getattr(keys, "ndim", 0) else 1)
    return standard_normal(_keys_at(keys, jnp.asarray(0)), shape)


class Remembering(NamedTuple):
    """The carry of a chain whose denoiser is a RecallingDenoiser."""

    carry: Any
    memory: Any

    @property
    def x(self) -> Examples:
        return self.carry.x

    @property
    def x_0(self) -> Examples:
        return self.carry.x_0


def begin(sampler: Sampler, denoiser: Denoiser | RecallingDenoiser, x: Examples) -> Any:
    """Returns the carry at the start of a chain from x."""
    carry = sampler.init(x)
    if isinstance(denoiser, RecallingDenoiser):
        return Remembering(carry, denoiser.init(x))
    return carry


def advance(
    sampler: Sampler, denoiser: Denoiser | RecallingDenoiser, carry: Any, rows: Row, keys: Keys
) -> Any:
    """Returns the carry after the intervals of `rows`: all of a chain, or a piece of it.

    The carry is what `begin` gives, or `advance` itself.
    `rows` are what `plan_chain` gives, or a slice of it, and may be traced, so pieces of one length
    share one compiled program. The result of the pieces is that of the uncut chain, bit for bit.
    Raises TypeError for keys that are not typed threefry keys `[B]`, for rows from elsewhere, and
    for a denoiser that returns anything but a `Prediction` of the shape of x_t.
    """
    if not isinstance(rows, Row):
        raise TypeError(
            f"rows must be what plan_chain gives for the times, not {type(rows).__name__}"
        )
    check_keys(keys, carry.x.shape[0])

    def step(carry: Any, row: Row, keys: Keys) -> Any:
        if not isinstance(denoiser, RecallingDenoiser):
            return sampler.step(checked(denoiser), carry, row, keys)
        # References, because a step may call its denoiser inside a branch.
        memory, given = jax.tree.map(jax.new_ref, carry.memory), denoiser.given

        def recalling(x_t: Examples, t: Any) -> Prediction:
            last = jax.tree.map(lambda ref: ref[...], memory)
            found = check_prediction(given(last)(x_t, t), x_t)
            jax.tree.map(_write, memory, found.memory)
            return found._replace(memory=None)

        after = sampler.step(recalling, carry.carry, row, keys)
        return Remembering(after, jax.tree.map(jax.freeze, memory))

    def renoise(carry: Any, row: Row, keys: Keys) -> Any:
        assert row.renoising is not None
        noise = row.renoising.noise_scale * standard_normal(keys, carry.x.shape[1:])
        return begin(sampler, denoiser, row.renoising.scale * carry.x + noise)

    def interval(carry: Any, row: Row) -> tuple[Any, None]:
        own = _keys_at(keys, row.draw)
        if row.renoising is None:
            return step(carry, row, own), None
        return lax.cond(row.renoising.rises, renoise, step, carry, row, own), None

    return lax.scan(interval, carry, jax.tree.map(jnp.asarray, rows))[0]


def _write(ref: Any, value: Any) -> None:
    ref[...] = value


def sample(
    sampler: Sampler,
    denoiser: Denoiser | RecallingDenoiser,
    x: Examples,
    *,
    rows: Row,
    keys: Keys,
    frames: int = 0,
) -> tuple[Examples, Float[Array, "frames B *shape"] | None]:
    """Returns the chain's last x `[B, …]`, and its trajectory `[frames + 1, B, …]` if asked.

    The chain starts from x at the first time of `rows`, which are what `plan_chain` gives. The
    frames lie evenly along it, and nothing else of the chain is kept. Raises ValueError unless
    their number divides that of the intervals, and TypeError as `advance` does.
    """
    check_examples(x=x)
    if not isinstance(rows, Row):
        raise TypeError(
            f"rows must be what plan_chain gives for the times, not {type(rows).__name__}"
        )
    carry, steps = begin(sampler, denoiser, x), len(rows.t)
    if frames == 0:
        return advance(sampler, denoiser, carry, rows, keys).x, None
    if frames < 0 or steps % frames:
        raise ValueError(f"{frames} frames do not divide {steps} sampling steps evenly")

    def frame(carry: Any, piece: Row) -> tuple[Any, Examples]:
        carry = advance(sampler, denoiser, carry, piece, keys)
        return carry, carry.x

    pieces = jax.tree.map(lambda x: jnp.reshape(x, (frames, steps // frames, *x.shape[1:])), rows)
    final, later = lax.scan(frame, carry, pieces)
    return final.x, jnp.concatenate([carry.x[None], later])
