"""What a checkpoint is judged by: each metric says which samples it wants, then scores them.

    wanted = metric.wanted(Real(shape, size, labels, classes))  # how many, and of which labels
    scores = metric.score(Sets(examples, labels, samples, wanted.labels))

NumPy and scikit-learn only. To add a metric, write its file and its row here.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation.metrics.classifier import accuracy
from ddpm_jax.evaluation.metrics.neighbours import expected_coverage, nearest_neighbours
from ddpm_jax.evaluation.metrics.sets import Sets, spread
from ddpm_jax.evaluation.metrics.wasserstein import sliced_wasserstein

__all__ = ["METRICS", "Metric", "Real", "Sets", "Wanted", "applicable"]


class Real(NamedTuple):
    """The real set as far as a metric must know it before anything is sampled.

    `shape` is one example's; `size` how many there are; `labels` int `[size]` or None; `classes`
    how many the network can be asked for, 0 where it takes no labels.
    """

    shape: tuple[int, ...]
    size: int
    labels: np.ndarray | None
    classes: int


class Wanted(NamedTuple):
    """The samples to draw: `size` of them, and the labels int `[size]` to ask for, or None."""

    size: int
    labels: np.ndarray | None


class Metric(NamedTuple):
    """One way to judge samples.

    `obstacle` says in a few words why it doesn't apply to a real set, or None where it does;
    `wanted` which samples to draw; `score` gives each number its name.
    """

    obstacle: Callable[[Real], str | None]
    wanted: Callable[[Real], Wanted]
    score: Callable[[Sets], dict[str, float]]


_A_CLASS = 50
_K = 5


def _accuracy_obstacle(real: Real) -> str | None:
    if real.labels is None or real.classes == 0:
        return "it needs labelled data and a network that takes labels"
    return None if len(np.unique(real.labels)) > 1 else "it needs at least two classes"


def _some_of_each_class(real: Real) -> Wanted:
    labels = np.repeat(np.arange(real.classes, dtype=np.int32), _A_CLASS)
    return Wanted(len(labels), labels)


def _coverage_obstacle(real: Real) -> str | None:
    return None if real.size > _K else f"it needs more than {_K} real examples"


def _as_many_of_each_label(real: Real) -> Wanted:
    """As many samples as real examples that are looked at, with their labels where it takes any."""
    chosen = spread(real.size)
    if real.labels is None or real.classes == 0:
        return Wanted(len(chosen), None)
    return Wanted(len(chosen), real.labels[chosen].astype(np.int32))


def _coverage(sets: Sets) -> dict[str, float]:
    real = sets.real[spread(len(sets.real))]
    equal = expected_coverage(len(real), len(sets.samples), k=_K)
    return nearest_neighbours(real, sets.samples, k=_K) | {"coverage_if_equal": equal}


def _wasserstein_obstacle(real: Real) -> str | None:
    return None if real.shape == (2,) else "it needs points in the plane"


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy_obstacle, _some_of_each_class, accuracy),
    "coverage": Metric(_coverage_obstacle, _as_many_of_each_label, _coverage),
    "sliced_wasserstein": Metric(
        _wasserstein_obstacle,
        lambda real: Wanted(real.size, None),
        lambda sets: {"sliced_wasserstein": sliced_wasserstein(sets.real, sets.samples)},
    ),
}


def applicable(real: Real) -> dict[str, Metric]:
    """The metrics that apply to a real set."""
    return {name: metric for name, metric in METRICS.items() if metric.obstacle(real) is None}
