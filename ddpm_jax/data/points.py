"""Points in the plane: data whose samples can be judged by eye after seconds of training."""

from collections.abc import Callable

import numpy as np

from ddpm_jax.data.settings import PointsData
from ddpm_jax.data.source import ArraySource

PointSet = tuple[np.ndarray, np.ndarray | None]
"""Points `[N, 2]`, and labels `[N]` or None."""


def swiss_roll(size: int, noise: float, table: int) -> PointSet:
    """A spiral: scikit-learn's Swiss roll, projected along its axis, divided by 10; within ±1.5."""
    from sklearn.datasets import make_swiss_roll

    points, _ = make_swiss_roll(size, noise=noise, random_state=table)
    return points[:, [0, 2]] / 10, None


def s_curve(size: int, noise: float, table: int) -> PointSet:
    """An S: scikit-learn's S curve, projected along its axis and divided by 10; ±0.13 × ±0.23."""
    from sklearn.datasets import make_s_curve

    points, _ = make_s_curve(size, noise=noise, random_state=table)
    return points[:, [0, 2]] / 10, None


def moons(size: int, noise: float, table: int) -> PointSet:
    """Two interleaved half circles of radius 1, one class each; within about [-1, 2] × [-1, 1]."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(size, noise=noise, random_state=table)
    return np.asarray(points), np.asarray(labels)


def circles(size: int, noise: float, table: int) -> PointSet:
    """Two circles around 0 with radius 1 and 1/2, one class each."""
    from sklearn.datasets import make_circles

    points, labels = make_circles(size, noise=noise, factor=0.5, random_state=table)
    return np.asarray(points), np.asarray(labels)


def checkerboard(size: int, noise: float, table: int) -> PointSet:
    """The black squares of a 4×4 board, uniformly filled; scaled to ±1."""
    # NumPy never changes RandomState's streams, but it may change a Generator's.
    random = np.random.RandomState(table)
    row = random.randint(4, size=size)
    column = 2 * random.randint(2, size=size) + row % 2
    corner = np.stack([column, row], axis=1) - 2
    points = corner + random.uniform(size=(size, 2)) + noise * random.normal(size=(size, 2))
    return points / 2, None


POINT_SETS: dict[str, Callable[[int, float, int], PointSet]] = {
    "swiss_roll": swiss_roll,
    "s_curve": s_curve,
    "moons": moons,
    "circles": circles,
    "checkerboard": checkerboard,
}

_CLASSES = {"moons": ("upper", "lower"), "circles": ("outer", "inner")}


def open_points(config: PointsData) -> ArraySource:
    """Returns `config.size` points of `config.shape`, float32 `[2]`, as a function of the config.

    Moons and circles have two classes; the other shapes have no labels. Points keep the shape's own
    scale and may lie outside [-1, 1].
    """
    points, labels = POINT_SETS[config.shape](config.size, config.noise, config.table)
    labels = None if labels is None else labels.astype(np.int32)
    return ArraySource(points.astype(np.float32), labels, _CLASSES.get(config.shape, ()))
