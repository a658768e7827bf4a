"""Accumulators over batches of features: what a metric keeps of the batches it has seen.

An accumulator is a NamedTuple of arrays with a function that adds a batch. Features are float32;
what is computed of them is float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation.features.extractor import Features


class FeatureSet(NamedTuple):
    """All features with their labels, for metrics that compare every pair.

    `vectors` is float32 `[N, D]`; `logits` float32 `[N, K]` or None. `labels` is int `[N]`, or None
    where there are none. For samples they are the labels that the network was asked for.
    """

    vectors: np.ndarray
    logits: np.ndarray | None
    labels: np.ndarray | None


class Collected(NamedTuple):
    """The batches of a `FeatureSet` so far."""

    vectors: tuple[np.ndarray, ...] = ()
    logits: tuple[np.ndarray, ...] = ()
    labels: tuple[np.ndarray, ...] = ()


def collect(state: Collected, features: Features, labels: np.ndarray | None) -> Collected:
    """Adds a batch; labels and logits come with every batch or with none."""
    return Collected(
        (*state.vectors, features.vectors),
        state.logits if features.logits is None else (*state.logits, features.logits),
        state.labels if labels is None else (*state.labels, labels),
    )


def joined(state: Collected) -> FeatureSet:
    """Returns all batches as one set; raises ValueError if there was none."""

    def whole(parts: Sequence[np.ndarray]) -> np.ndarray | None:
        return np.concatenate(parts) if len(parts) else None

    return FeatureSet(np.concatenate(state.vectors), whole(state.logits), whole(state.labels))


class Moments(NamedTuple):
    """Number, mean `[D]` and summed products of deviations `[D, D]` of features, float64."""

    size: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """The covariance `[D, D]`, of N - 1 degrees of freedom."""
        return self.scatter / (self.size - 1)


def no_moments() -> Moments:
    """Returns the moments of nothing."""
    return Moments(np.zeros((), np.int64), np.zeros(()), np.zeros(()))


def add_moments(state: Moments, features: Features, labels: np.ndarray | None) -> Moments:
    """Adds a batch without cancellation: Chan et al. 1983, equation 1.5, for vectors."""
    del labels
    vectors = features.vectors.astype(np.float64)
    size, mean = state.size + len(vectors), vectors.mean(axis=0)
    gap, around = mean - state.mean, vectors - mean
    weight = state.size * len(vectors) / size
    scatter = state.scatter + around.T @ around + weight * np.outer(gap, gap)
    return Moments(np.asarray(size), state.mean + gap * (len(vectors) / size), scatter)
