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


def branch_segments() -> np.ndarray:
    """Returns the pieces of `branches`: `[2 classes, 31, 2 ends, 2]`, those of each tree in turn.

    A piece is a straight line. Each ends in two pieces of 0.72 of its length, turned by ±0.5.
    """
    pieces: list[tuple[np.ndarray, float, float]] = [(np.array([-1.5, -0.1]), 0.1, 0.6)]
    for start, angle, length in pieces:  # The list grows: each piece appends the two at its end.
        if len(pieces) < 31:
            end = start + length * np.array([np.cos(angle), np.sin(angle)])
            pieces += [(end, angle + turn, 0.72 * length) for turn in (-0.5, 0.5)]
    tree = np.array(
        [
            [start, start + length * np.array([np.cos(angle), np.sin(angle)])]
            for start, angle, length in pieces
        ]
    )
    return np.stack([tree, -tree])


def branches(size: int, noise: float, table: int) -> PointSet:
    """Two trees that grow into each other, one class each, along `branch_segments`; within ±1.7.

    The noise is divided by 5.
    """
    random = np.random.RandomState(table)
    labels, trees = np.arange(size) % 2, branch_segments()
    lengths = np.linalg.norm(trees[0, :, 1] - trees[0, :, 0], axis=1)
    pieces = random.choice(len(lengths), size=size, p=lengths / lengths.sum())
    ends, part = trees[labels, pieces], random.uniform(size=(size, 1))
    points = ends[:, 0] + part * (ends[:, 1] - ends[:, 0])
    return points + noise / 5 * random.normal(size=(size, 2)), labels


POINT_SETS: dict[str, Callable[[int, float, int], PointSet]] = {
    "swiss_roll": swiss_roll,
    "s_curve": s_curve,
    "moons": moons,
    "circles": circles,
    "checkerboard": checkerboard,
    "branches": branches,
}

_CLASSES = {
    "moons": ("upper", "lower"),
    "circles": ("outer", "inner"),
    "branches": ("left", "right"),
}


def open_points(config: PointsData) -> ArraySource:
    """Returns `config.size` points of `config.shape`, float32 `[2]`, as a function of the config.

    Moons, circles and branches have two classes; the other shapes have no labels. Points keep the
    shape's own scale and may lie outside [-1, 1].
    """
    points, labels = POINT_SETS[config.shape](config.size, config.noise, config.table)
    labels = None if labels is None else labels.astype(np.int32)
    return ArraySource(points.astype(np.float32), labels, _CLASSES.get(config.shape, ()))
