"""Time grids: at which times a chain from noise to data calls the network.

A row of `TIME_GRIDS` takes the schedule and the number of steps, and gives `[steps + 1]` times.
They fall strictly and end at 0. They are whole numbers, unless the network takes fractional times.
Most grids start at T; a grid that starts below treats the noise as x at its first time.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.tables import row_with


def time_steps(T: int, steps: int) -> np.ndarray:
    """Returns int32 `[steps + 1]` from T down to 0, evenly spaced up to rounding.

    Raises ValueError unless 1 ≤ steps ≤ T.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"{steps} sampling steps: take 1 to {T}, the steps of the noise schedule")
    return (T * np.arange(steps, -1, -1) // steps).astype(np.int32)


def strided(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Returns times from T down to 0, evenly spaced up to rounding."""
    return time_steps(schedule.T, steps)


TIME_GRIDS: dict[str, Callable[..., np.ndarray]] = {"strided": strided}


def make_time_grid(
    name: str, schedule: NoiseSchedule, steps: int, *, fractional: bool = False, **options: Any
) -> np.ndarray:
    """Returns the times of a row of `TIME_GRIDS`: `[steps + 1]`, int32, or float64 where allowed.

    `fractional` says that the network takes fractional times. Raises ValueError for an unknown name
    or option, and for times that repeat, rise, leave 0…T, don't end at 0, or must be whole and
    are not.
    """
    row = row_with("time grid", TIME_GRIDS, name, options)
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
    if np.issubdtype(times.dtype, np.integer):
        return times.astype(np.int32)
    if not fractional:
        raise ValueError(
            f"time grid {name!r} gives fractional times; this network takes whole ones"
        )
    return times.astype(np.float64)
