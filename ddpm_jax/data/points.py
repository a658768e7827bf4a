"""Points of two-dimensional figures: data whose samples can be judged by eye in seconds."""

from collections.abc import Callable

import numpy as np

from ddpm_jax.config import PointsData
from ddpm_jax.data.source import ArraySource

Figure = tuple[np.ndarray, np.ndarray | None]


def swiss_roll(size: int, noise: float, table: int) -> Figure:
    """A spiral, scikit-learn's roll seen along its axis and divided by 10: within about ±1.5."""
    from sklearn.datasets import make_swiss_roll

    points, _ = make_swiss_roll(size, noise=noise, random_state=table)
    return points[:, [0, 2]] / 10, None


def s_curve(size: int, noise: float, table: int) -> Figure:
    """An S, scikit-learn's curve seen along its axis and divided by 10: within ±0.13 by ±0.23."""
    from sklearn.datasets import make_s_curve

    points, _ = make_s_curve(size, noise=noise, random_state=table)
    return points[:, [0, 2]] / 10, None


def moons(size: int, noise: float, table: int) -> Figure:
    """Two interleaved half circles of radius 1, one class each: within about [-1, 2] by ±1."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(size, noise=noise, random_state=table)
    return np.asarray(points), np.asarray(labels)


def circles(size: int, noise: float, table: int) -> Figure:
    """Two circles around 0 of radius 1 and 1/2, one class each."""
    from sklearn.datasets import make_circles

    points, labels = make_circles(size, noise=noise, factor=0.5, random_state=table)
    return np.asarray(points), np.asarray(labels)


def checkerboard(size: int, noise: float, table: int) -> Figure:
    """The black squares of a 4×4 board, filled evenly; halved from ±2 to ±1."""
    # RandomState's streams are frozen, a Generator's may change with NumPy.
    random = np.random.RandomState(table)
    row = random.randint(4, size=size)
    column = 2 * random.randint(2, size=size) + row % 2
    corner = np.stack([column, row], axis=1) - 2
    points = corner + random.uniform(size=(size, 2)) + noise * random.normal(size=(size, 2))
    return points / 2, None


FIGURES: dict[str, Callable[[int, float, int], Figure]] = {
    "swiss_roll": swiss_roll,
    "s_curve": s_curve,
    "moons": moons,
    "circles": circles,
    "checkerboard": checkerboard,
}

_CLASSES = {"moons": ("upper", "lower"), "circles": ("outer", "inner")}


def open_points(config: PointsData) -> ArraySource:
    """Returns `config.size` points of the figure, float32 `[2]`, a pure function of the config.

    Labels are the two parts of moons and circles; the other figures have none. Points are on the
    figure's own scale and may lie outside [-1, 1].
    """
    points, labels = FIGURES[config.shape](config.size, config.noise, config.table)
    labels = None if labels is None else labels.astype(np.int32)
    return ArraySource(points.astype(np.float32), labels, _CLASSES.get(config.shape, ()))
