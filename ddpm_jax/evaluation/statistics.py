"""Accumulators over batches of features: what a metric keeps of the batches it has seen.

An accumulator is a NamedTuple with a function that adds a batch. Features are float64 `[B, D]`.
"""

from typing import NamedTuple

import numpy as np


class FeatureSet(NamedTuple):
    """All features with their labels, for metrics that compare every pair.

    `features` is float64 `[N, D]`; `labels` is int `[N]`, or None where there are none. For samples
    they are the labels that the network was asked for.
    """

    features: np.ndarray
    labels: np.ndarray | None


class Collected(NamedTuple):
    """The batches of a `FeatureSet` so far."""

    features: tuple[np.ndarray, ...] = ()
    labels: tuple[np.ndarray, ...] = ()


def collect(state: Collected, features: np.ndarray, labels: np.ndarray | None) -> Collected:
    """Adds a batch; either every batch has labels or none has."""
    more = () if labels is None else (labels,)
    return Collected((*state.features, features), (*state.labels, *more))


def joined(state: Collected) -> FeatureSet:
    """Returns all batches as one set; raises ValueError if there was none."""
    labels = np.concatenate(state.labels) if state.labels else None
    return FeatureSet(np.concatenate(state.features), labels)
