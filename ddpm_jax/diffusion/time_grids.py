"""Time grids: at which times a chain from noise to data calls the network.

A row of `TIME_GRIDS` takes the schedule and the number of steps, and gives `[steps + 1]` times.
They fall strictly and end at 0. They may lie between whole numbers: for a network that takes whole
times only, each goes to the nearest one that is free.
Most grids start at T; a grid that starts below treats the noise as x at its first time.
"""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule, time_of
from ddpm_jax.tables import row_with

_Lowest = Annotated[float, "log SNRs below it are passed in the first step."]
_Highest = Annotated[float, "log SNRs above it are passed in the last step."]


def time_steps(T: int, steps: int) -> np.ndarray:
    """Returns int32 `[steps + 1]` from T down to 0, evenly spaced up to rounding.

    Raises ValueError unless 1 ≤ steps ≤ T.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"{steps} sampling steps: take 1 to {T}, the steps of the noise schedule")
    return (T * np.arange(steps, -1, -1) // steps).astype(np.int32)


def strided(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Returns times from T down to 0, evenly spaced, and rounded down."""
    return time_steps(schedule.T, steps)


def trailing(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Returns times from T down to 0, evenly spaced: Lin et al. 2024, table 2."""
    return np.linspace(schedule.T, 0, steps + 1)


def leading(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Returns multiples of the whole stride, plus 1, and 0: they start below T.

    Other codebases, whose times begin at 0, call them 0, c, 2c, …: Lin et al. 2024, table 2.
    """
    return np.append(1 + schedule.T // steps * np.arange(steps - 1, -1, -1), 0)


def quadratic(schedule: NoiseSchedule, steps: int, *, top: float = 0.8) -> np.ndarray:
    """Returns times whose square roots are evenly spaced, from about `top` · T to 1, and 0.

    Song et al. 2021, appendix D.2, as their code has it, with `top` in (0, 1] or ValueError.
    """
    if not 0 < top <= 1:
        raise ValueError(f"top is {top:g}: it must be above 0 and at most 1")
    roots = np.linspace(np.sqrt(top * (schedule.T - 1)), 0, steps)
    return np.append(1 + roots**2, 0)


def t2(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Returns times whose square roots are evenly spaced, from T to 1, and 0: Zhang & Chen 2023."""
    times = np.linspace(np.sqrt(schedule.T), 1, steps) ** 2
    return np.append(np.minimum(times, schedule.T), 0)


def logsnr(
    schedule: NoiseSchedule,
    steps: int,
    *,
    lowest: _Lowest = -10.2,
    highest: _Highest = 6.0,
) -> np.ndarray:
    """Returns times whose log SNR is evenly spaced, from T to about 1, and 0: Lu et al. 2022.

    A log SNR of T below `lowest`, which a cosine schedule has, counts as `lowest`, and one of t = 1
    above `highest` as that. Raises ValueError unless the last is above the first.
    """
    return _from_T(schedule, np.linspace(*_ends(schedule, lowest, highest), steps))


def karras(
    schedule: NoiseSchedule,
    steps: int,
    *,
    rho: float = 7.0,
    lowest: _Lowest = -10.2,
    highest: _Highest = 6.0,
) -> np.ndarray:
    """Returns times whose σ̄^(1/rho) is evenly spaced, from T to about 1, and 0.

    Karras et al. 2022, equation 5. σ̄ is 1/sqrt(SNR); `lowest` and `highest` as in `logsnr`. Raises
    ValueError for rho outside [1, 100].
    """
    if not 1 <= rho <= 100:
        raise ValueError(f"rho is {rho:g}: it must lie between 1 and 100")
    low, high = _ends(schedule, lowest, highest)
    roots = np.linspace(np.exp(-low / 2 / rho), np.exp(-high / 2 / rho), steps)
    return _from_T(schedule, -2 * rho * np.log(roots))


def _ends(schedule: NoiseSchedule, lowest: float, highest: float) -> tuple[float, float]:
    """Returns the log SNRs from which and to which a grid goes; ValueError if they don't rise."""
    first, last = float(schedule.log_snr[-1]), float(schedule.log_snr[1])
    low, high = max(first, lowest), min(last, highest)
    if low < high or schedule.T == 1:
        return low, high
    if lowest > first:
        raise ValueError(f"lowest is {lowest:g}: it must be below the last log SNR, {high:.3g}")
    raise ValueError(f"highest is {highest:g}: it must be above the log SNR of T, {low:.3g}")


def _from_T(schedule: NoiseSchedule, log_snr: np.ndarray) -> np.ndarray:
    """Returns the times of these log SNRs, the first of them replaced by T, and 0."""
    return np.concatenate([[schedule.T], time_of(schedule, log_snr[1:]), [0]])


TIME_GRIDS: dict[str, Callable[..., np.ndarray]] = {
    "strided": strided,
    "leading": leading,
    "trailing": trailing,
    "quadratic": quadratic,
    "logsnr": logsnr,
    "karras": karras,
    "t2": t2,
}


def make_time_grid(
    name: str, schedule: NoiseSchedule, steps: int, *, fractional: bool = False, **options: Any
) -> np.ndarray:
    """Returns the times of a row of `TIME_GRIDS`: `[steps + 1]`, int32, or float64 where allowed.

    `fractional` says that the network takes fractional times; otherwise each goes to the nearest
    free whole one. Raises ValueError for an unknown name or option, for steps outside 1…T, and for
    times that repeat, rise, leave 0…T, or don't end at 0.
    """
    row = row_with("time grid", TIME_GRIDS, name, options)
    time_steps(schedule.T, steps)
    times = np.asarray(row(schedule, steps, **options))
    if times.shape != (steps + 1,) or times[-1] != 0 or times[0] > schedule.T:
        raise ValueError(
            f"time grid {name!r} must give {steps + 1} times from at most {schedule.T} to 0; "
            f"it gives {times.tolist()}"
        )
    if not (np.diff(times) < 0).all():
        k = int(np.flatnonzero(~(np.diff(times) < 0))[0])
        raise ValueError(
            f"time grid {name!r} goes from t = {times[k]} to {times[k + 1]}; times must fall "
            "strictly, so take fewer steps"
        )
    if fractional and not np.issubdtype(times.dtype, np.integer):
        return times.astype(np.float64)
    return _whole(times, schedule.T)


def _whole(times: np.ndarray, T: int) -> np.ndarray:
    """Returns whole times that fall strictly: each rounded, and moved on where it is taken."""
    rising, places = np.rint(times[::-1]).astype(np.int32), np.arange(len(times), dtype=np.int32)
    # Upwards from 0 each is above the one before, and then none is so high that T has no room left.
    rising = np.maximum.accumulate(rising - places) + places
    return np.minimum(rising, T - places[::-1])[::-1]
