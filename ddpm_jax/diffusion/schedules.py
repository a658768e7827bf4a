"""Noise schedules: how much of the image is left at each time.

Time runs over 0…T. Entry 0 is clean data (β_0 = 0, ᾱ_0 = 1), so every table is read at t itself,
and the step to s = 0 needs no special case. With β_t from `SCHEDULES`,

    ᾱ_t = ∏_{i ≤ t} (1 - β_i)        SNR_t = ᾱ_t / (1 - ᾱ_t)

All tables are float64, computed from log ᾱ_t = Σ log1p(-β_i), and compiled functions read them
rounded once to float32. Computed in float32, 1 - ᾱ_t would lose four of its seven digits at t = 1,
where most of the visible detail is made.

`at` reads a table at whole times, `continuous` reads all tables at any times, and `time_of` finds
the time of a log SNR.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from ddpm_jax.diffusion.checks import check_times
from ddpm_jax.tables import row_with
from ddpm_jax.typing import FractionalTimesteps, Timesteps

Betas = Float64[np.ndarray, "T"]
Table = Float[np.ndarray | Array, "times"]
HostTimes = Int[np.ndarray, "chain"]
FractionalHostTimes = Float[np.ndarray, "chain"]


_First = Annotated[float, "First variance."]
_Last = Annotated[float, "Last variance."]
_Temperature = Annotated[float, "The higher, the more alike all steps."]
_Offset = Annotated[float, "Keeps the first variance from vanishing."]


def linear(T: int, *, beta_1: _First = 1e-4, beta_T: _Last = 0.02) -> Betas:
    """Returns β_1…β_T evenly spaced; Ho et al. 2020, section 4."""
    _check_betas(beta_1, beta_T)
    return np.linspace(beta_1, beta_T, T)


def quadratic(T: int, *, beta_1: _First = 1e-4, beta_T: _Last = 0.02) -> Betas:
    """Returns β_1…β_T with evenly spaced square roots; the `quad` of Ho et al.'s code."""
    _check_betas(beta_1, beta_T)
    return np.linspace(beta_1**0.5, beta_T**0.5, T) ** 2


def sigmoid(T: int, *, beta_1: _First = 1e-4, beta_T: _Last = 0.02) -> Betas:
    """Returns β_1 + (β_T - β_1) sigmoid(u), u from -6 to 6: flat at both ends; Xu et al. 2022."""
    _check_betas(beta_1, beta_T)
    return beta_1 + (beta_T - beta_1) / (1 + np.exp(-np.linspace(-6, 6, T)))


def cosine(T: int, *, s: _Offset = 0.008) -> Betas:
    """Returns the β of ᾱ_t ∝ cos²((t/T + s)/(1 + s) π/2); Nichol & Dhariwal 2021, equation 17.

    The offset s keeps β_1 from vanishing; β is kept below 0.999, as ᾱ_T would be 0. √ᾱ_T is 5e-5 at
    T = 1000, and x_0 from a predicted eps is divided by it: in float32 a strided chain then has an
    error of 1e-4 or so. A network that predicts v or x_0 has no such division.
    """
    if not 0 < s < 1:
        raise ValueError(f"s is {s!r}; it must be between 0 and 1")
    alpha_bar = np.cos((np.arange(T + 1) / T + s) / (1 + s) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def sigmoid_alpha_bar(
    T: int, *, start: float = -3.0, end: float = 3.0, tau: _Temperature = 1.0
) -> Betas:
    """Returns the β of ᾱ_t = (σ(end/τ) - σ(u/τ)) / (σ(end/τ) - σ(start/τ)), u from start to end.

    σ is the sigmoid; β is kept below 0.999, as ᾱ_T would be 0. Source: Jabri et al. 2022, figure 8.
    """
    if not -100 <= start < end <= 100:
        raise ValueError(f"start is {start:g}: it must be below end, both within ±100")
    if not 0.01 <= tau <= 100:
        raise ValueError(f"tau is {tau:g}: it must be in 0.01 … 100")

    def logistic(u: Any) -> Any:
        return 0.5 + 0.5 * np.tanh(np.asarray(u) / (2 * tau))

    fraction = logistic(end) - logistic(start + (end - start) * np.arange(T + 1) / T)
    alpha_bar = fraction / fraction[0]
    return np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, 0.999)


def _check_betas(beta_1: float, beta_T: float) -> None:
    for name, value in (("beta_1", beta_1), ("beta_T", beta_T)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value!r}; it must be between 0 and 1")
    if beta_T < beta_1:
        raise ValueError(f"beta_T is {beta_T!r}; it must be at least beta_1, which is {beta_1!r}")


SCHEDULES: dict[str, Callable[..., Betas]] = {
    "linear": linear,
    "quadratic": quadratic,
    "sigmoid": sigmoid,
    "cosine": cosine,
    "sigmoid_alpha_bar": sigmoid_alpha_bar,
}


LARGEST_T = 2**24
"""Above it, float32 can't tell the time t from t + 1."""
LARGEST_SHIFT = 1_024
SHIFTS = f"1/{LARGEST_SHIFT:,} … {LARGEST_SHIFT:,}"


class NoiseSchedule(NamedTuple):
    """Tables over the times 0…T, constants of every program that uses them.

    They are NumPy's float64, so a schedule belongs to no device; `at` reads them as float32 on one.
    As a pytree it may also be an argument of a compiled function, which then has float32 only.
    """

    beta: Table  # β_t, the variance added from t-1 to t; 0 at t = 0
    alpha_bar: Table  # ᾱ_t, the share of the variance that is data; 1 at t = 0
    sqrt_alpha_bar: Table  # the data's scale in x_t
    sqrt_one_minus_alpha_bar: Table  # the noise's scale in x_t; 0 at t = 0
    log_snr: Table  # log(ᾱ_t / (1 - ᾱ_t)), decreasing; +∞ at t = 0, -∞ where ᾱ_t is 0

    @property
    def T(self) -> int:
        """The number of noise steps."""
        return self.beta.shape[0] - 1


def noise_schedule(betas: Betas) -> NoiseSchedule:
    """Returns the tables of any β_1…β_T.

    Raises ValueError unless T ≥ 1, 0 < β_t < 1, and float32 can hold ᾱ_T: below that, x_0 can't
    be recovered from x_T and the noise.
    """
    betas = np.asarray(betas, np.float64)
    outside = np.flatnonzero(~((betas > 0) & (betas < 1)))
    if betas.size == 0:
        raise ValueError("a noise schedule needs at least one step")
    if outside.size:
        t = outside[0]
        raise ValueError(f"beta at t = {t + 1} is {betas[t]:g}: it must lie between 0 and 1")
    log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
    return _tables(log_alpha_bar)._replace(beta=np.concatenate([[0.0], betas]))


def _tables(log_alpha_bar: np.ndarray) -> NoiseSchedule:
    """Returns the tables of log ᾱ_0…log ᾱ_T; -∞ is no data at all, and float32 must hold others."""
    T, end = len(log_alpha_bar) - 1, log_alpha_bar[-1]
    if np.isfinite(end) and end < np.log(np.finfo(np.float32).tiny):
        raise ValueError(f"{T} steps leave log ᾱ_T = {end:.0f}: lower beta_T")
    one_minus_alpha_bar = 0.0 - np.expm1(log_alpha_bar)
    with np.errstate(divide="ignore"):  # log 0 at t = 0, where the SNR is infinite
        log_snr = log_alpha_bar - np.log(one_minus_alpha_bar)
    tables = (
        0.0 - np.expm1(np.diff(log_alpha_bar, prepend=0.0)),
        np.exp(log_alpha_bar),
        np.exp(log_alpha_bar / 2),
        np.sqrt(one_minus_alpha_bar),
        log_snr,
    )
    return NoiseSchedule(*tables)


def _log_alpha_bar(log_snr: Any, xp: Any = np) -> Any:
    return -xp.logaddexp(0.0, -log_snr)


def shifted(schedule: NoiseSchedule, shift: float) -> NoiseSchedule:
    """Returns the schedule with log SNR lower by 2 log(shift) at every time.

    Neighbouring pixels of a large picture tell the same, so the same noise hides less of it. With a
    shift of S/b, pictures of side S, averaged to side b, are as noisy as the schedule makes
    pictures of side b: Hoogeboom et al. 2023, section 3.1. Raises ValueError for a shift outside
    1/1024…1024, and if float32 can't hold ᾱ_T.
    """
    if not 1 / LARGEST_SHIFT <= shift <= LARGEST_SHIFT:
        raise ValueError(f"shift is {shift!r}; it must be in {SHIFTS}")
    return _tables(_log_alpha_bar(schedule.log_snr - 2 * np.log(shift)))


def with_zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """Returns the schedule with ᾱ_T = 0, so that x_T is noise and nothing else.

    sqrt(ᾱ_t) becomes (sqrt(ᾱ_t) - sqrt(ᾱ_T)) sqrt(ᾱ_1) / (sqrt(ᾱ_1) - sqrt(ᾱ_T)), and x_1 is as
    before: Lin et al. 2023, algorithm 1. Raises ValueError for T = 1, where x_1 is x_T.
    """
    if schedule.T < 2:
        raise ValueError("zero_terminal_snr is True; it must be False for T = 1, where x_1 is x_T")
    half_log = _log_alpha_bar(schedule.log_snr[1:]) / 2
    # sqrt(ᾱ_t / ᾱ_1) is 1 - lost: this form keeps all digits near t = 1.
    lost = -np.expm1(half_log - half_log[0])
    with np.errstate(divide="ignore"):  # log 0 at T
        half_log = half_log[0] + np.log1p(-lost / lost[-1])
    return _tables(np.concatenate([[0.0], 2 * half_log]))


def make_schedule(
    name: str, T: int, *, shift: float = 1.0, zero_terminal_snr: bool = False, **options: Any
) -> NoiseSchedule:
    """Returns the tables of a row of `SCHEDULES` for T steps, 1 … LARGEST_T.

    Any row may be `shifted`, and then get a zero terminal SNR. Raises ValueError for an unknown
    name or option, and for values out of range.
    """
    row = row_with("schedule", SCHEDULES, name, options)
    if not isinstance(T, int | np.integer) or not 1 <= T <= LARGEST_T:
        raise ValueError(f"a noise schedule has 1 … {LARGEST_T:,} steps, not {T}")
    schedule = noise_schedule(row(T, **options))
    if shift != 1:
        schedule = shifted(schedule, shift)
    return with_zero_terminal_snr(schedule) if zero_terminal_snr else schedule


# In bits per dimension: Stable Diffusion's schedule leaves 0.003, Ho et al.'s 0.00003.
_MOST_BITS_LEFT = 0.01


def unfit_ends(schedule: NoiseSchedule, first: float | None = None) -> list[str]:
    """Returns a line for each end of a schedule where sampling can't give the data.

    A chain starts from pure noise at the time `first`, or T, so x there must be noise: it may hold
    0.01 bits per dimension of data of size 1, -½ log2(1 - ᾱ_t), which is L_T of `bound` there. And
    its last step goes from x_1 to the data, so x_1 must hold more data than noise.
    """
    t = schedule.T if first is None else first
    start = continuous(schedule, np.array([t], np.float64))
    lines = []
    if -np.log2(start.sqrt_one_minus_alpha_bar[0]) > _MOST_BITS_LEFT:
        scale, share = start.sqrt_alpha_bar[0], start.alpha_bar[0]
        left = f"it keeps {scale:.2g} of the data (ᾱ = {share:.2g})"
        if t == schedule.T:
            fix = "take more timesteps, a larger beta_T or the cosine schedule, and train again"
            lines.append(f"x_T is not noise: {left}, but samples start from pure noise; {fix}")
        else:
            lines.append(
                f"the times start at t = {t:g}, where x_t is not noise: {left}, but the samples "
                f"start from pure noise; start at T = {schedule.T}, or give `start`"
            )
    if first is None and schedule.alpha_bar[1] < 0.5:
        lines.append(
            f"x_1 is mostly noise: ᾱ_1 = {schedule.alpha_bar[1]:.2g} of its variance is data, and "
            "one step must make all detail; take more timesteps or a smaller beta_1"
        )
    return lines


def at(table: Table, t: Timesteps | HostTimes, ndim: int) -> Float[Any, "..."]:
    """Returns the entries at t, shaped to broadcast against an array with `ndim` axes.

    t is one time for all (the result is a scalar) or one each (`[B, 1, …, 1]`). The entries are
    float32; if t is a NumPy array, they are NumPy's float64, which is what plans of samplers
    compute with. A time outside 0…T raises ValueError; in a compiled function, where it isn't
    known, it gives NaN, never another entry.
    """
    check_times(t, len(table) - 1)
    if isinstance(t, np.ndarray):
        entries = np.asarray(table, np.float64)[t]
    else:
        entries = jnp.asarray(table, jnp.float32).at[t]
        entries = entries.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return entries if t.ndim == 0 else entries.reshape(-1, *[1] * (ndim - 1))


def continuous(
    schedule: NoiseSchedule, t: FractionalTimesteps | FractionalHostTimes
) -> NoiseSchedule:
    """Returns a schedule whose entry k is the given one at the time t[k], whole or not, in 0…T.

    log ᾱ is interpolated linearly between whole times, and sqrt(ᾱ) before a time where it is 0. All
    other tables follow from it; β is the variance added between t - 1 and t. At whole times the
    entries are those of the tables. A scalar t gives one entry; NumPy times give float64. A time
    outside 0…T is as in `at`.
    """
    check_times(t, schedule.T, fractional=True)
    xp: Any = np if isinstance(t, np.ndarray) else jnp
    t = xp.atleast_1d(t)
    dtype = np.float64 if xp is np else np.float32
    log_alpha_bar = _log_alpha_bar(xp.asarray(schedule.log_snr, dtype), xp)
    whole = xp.floor(t).astype(np.int32)
    part = t - whole

    def log_at(whole: Any) -> Any:
        later = xp.where(part > 0, whole + 1, whole)
        start, end = at(log_alpha_bar, whole, 1), at(log_alpha_bar, later, 1)
        line = (1 - part) * start + part * xp.where(part > 0, end, 0.0)
        return xp.where(xp.isneginf(end) & (part > 0), start + 2 * xp.log1p(-part), line)

    now = log_at(whole)
    before = xp.where(t < 1, 0.0, log_at(xp.maximum(whole - 1, 0)))
    one_minus_alpha_bar = 0.0 - xp.expm1(now)
    with np.errstate(divide="ignore"):  # log 0 at t = 0, where the SNR is infinite
        log_snr = now - xp.log(one_minus_alpha_bar)
    between = (
        0.0 - xp.expm1(now - before),
        xp.exp(now),
        xp.exp(now / 2),
        xp.sqrt(one_minus_alpha_bar),
        log_snr,
    )
    return NoiseSchedule(
        *(
            xp.where(part == 0, at(table, whole, 1), entry)
            for table, entry in zip(schedule, between, strict=True)
        )
    )


def indexed(schedule: NoiseSchedule, times: np.ndarray) -> tuple[NoiseSchedule, HostTimes]:
    """Returns tables and the whole numbers that read them at `times` `[n]`, whole or fractional.

    With it a sampler's plan is written once for both kinds of times.
    """
    if np.issubdtype(times.dtype, np.integer):
        return schedule, times
    return continuous(schedule, times.astype(np.float64)), np.arange(len(times))


def noise_to_data(schedule: NoiseSchedule, times: np.ndarray) -> np.ndarray:
    """Returns σ̄ = 1/sqrt(SNR) at `times` `[n]`, whole or fractional: the noise on data of size 1.

    It is 0 at t = 0, and infinite where no data is left.
    """
    tables, index = indexed(schedule, times)
    return np.exp(-at(tables.log_snr, index, 1) / 2)


def time_of(schedule: NoiseSchedule, log_snr: Any) -> Any:
    """Returns the fractional times with these log SNRs: the inverse of `continuous`.

    NumPy's log SNRs give float64. A log SNR below that of T gives T.
    """
    xp: Any = np if isinstance(log_snr, np.ndarray) else jnp
    # -log ᾱ rises, as interp needs it, and is linear between whole times.
    dtype = np.float64 if xp is np else np.float32
    table = np.logaddexp(0.0, -np.asarray(schedule.log_snr, np.float64)).astype(dtype)
    lost, T = xp.logaddexp(dtype(0), -log_snr), schedule.T
    last = T if np.isfinite(table[T]) else T - 1
    found = xp.interp(lost, table[: last + 1], np.arange(last + 1, dtype=dtype))
    if last == T:
        return found
    # Before a time where ᾱ is 0, sqrt(ᾱ) is linear itself.
    return xp.where(lost > table[last], T - xp.exp((table[last] - lost) / 2), found)
