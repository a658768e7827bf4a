"""The contract of a metric: what it knows of the data, what it requests, and how it is computed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.evaluation.statistics import Collected, FeatureSet, collect, joined

LIMIT = 10_000
"""Most examples that a metric of quadratic cost compares: brute force then takes seconds."""


class RealData(NamedTuple):
    """The facts about the data from which a metric decides what it compares.

    `shape` is that of one example, `size` their number. `labels` is int `[size]`, or None if the
    data have none. `num_classes` counts the classes that the network can be asked for; 0 if it
    takes no labels.
    """

    shape: tuple[int, ...]
    size: int
    labels: np.ndarray | None
    num_classes: int


class Request(NamedTuple):
    """The real examples and the samples that a metric compares.

    `real` holds indices of real examples, int `[N]`, rising. `num` samples are wanted, with the
    `labels`, int `[num]`; None exactly if the network takes none.
    """

    real: np.ndarray
    num: int
    labels: np.ndarray | None


class Metric(NamedTuple):
    """A comparison of samples with real examples, as pure functions over batches of features.

        state = init()
        state = update(state, features, labels)     float64 [B, D], int [B] or None
        scores = result(state_of_real, state_of_samples)

    Real examples and samples have a state each. `obstacle` says in a few words why the metric does
    not apply to some data, or None if it does; `request` says what it compares; `features` is a row
    of FEATURES; `result` gives each number a name. Neither the order of the examples nor their
    batches may matter.
    """

    obstacle: Callable[[RealData], str | None]
    request: Callable[[RealData], Request]
    init: Callable[[], Any]
    update: Callable[[Any, np.ndarray, np.ndarray | None], Any]
    result: Callable[[Any, Any], dict[str, float]]
    features: str = "pixels"


def metric_of_sets(
    compare: Callable[[FeatureSet, FeatureSet], dict[str, float]],
    *,
    obstacle: Callable[[RealData], str | None],
    request: Callable[[RealData], Request],
    features: str = "pixels",
) -> Metric:
    """Returns the metric that keeps all features and compares the two sets (real, samples)."""
    return Metric(
        obstacle,
        request,
        Collected,
        collect,
        lambda real, samples: compare(joined(real), joined(samples)),
        features,
    )


def evenly_spread(n: int) -> np.ndarray:
    """Returns the indices `[min(n, LIMIT)]` of n examples, evenly spread over all of them."""
    size = min(n, LIMIT)
    return np.arange(size) * n // size


def classes_in_turn(real: RealData, num: int) -> np.ndarray | None:
    """Returns `num` labels, each class in turn; None if the network takes no labels."""
    return np.arange(num, dtype=np.int32) % real.num_classes if real.num_classes else None
