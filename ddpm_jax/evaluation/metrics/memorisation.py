"""Whether samples are copies of the real examples that a network was trained on.

Of a sample y, d_i is the distance to its i-th nearest real example. A copy is far nearer to one
example than to the next ones, so that this ratio is small (Carlini et al. 2023, section 5.1):

    r(y) = d_1 / ((d_1 + … + d_k) / k)

The ratios of the real examples themselves, each against all others, are those of new examples: a
sample counts as memorised if its ratio is among the smallest of these.
"""

from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.metrics.metric import Metric, metric_of_sets
from ddpm_jax.evaluation.metrics.neighbours import squared_distances
from ddpm_jax.evaluation.statistics import FeatureSet


class Nearest(NamedTuple):
    """The nearest members of a set: int `[N, k]`, and distances float64 `[N, k]`, rising."""

    members: np.ndarray
    distances: np.ndarray

    @property
    def ratios(self) -> np.ndarray:
        """r `[N]` in 0…1; 0 where all distances are 0."""
        mean = self.distances.mean(axis=1)
        return np.divide(self.distances[:, 0], mean, out=np.zeros_like(mean), where=mean > 0)


def nearest_members(
    vectors: np.ndarray, members: np.ndarray, k: int, *, others: bool = False
) -> Nearest:
    """Returns the k nearest of `members` `[M, D]` to each of `vectors` `[N, D]`.

    With `others`, both are the same set, and none is its own neighbour. Raises ValueError if there
    are fewer than k.
    """
    if not 1 <= k <= len(members) - others:
        raise ValueError(f"k = {k} needs 1 ≤ k ≤ {len(members) - others} members")
    found, squares = [], []
    for rows, block in squared_distances(vectors, members):
        if others:
            block[np.arange(len(rows)), rows] = np.inf
        some = np.argpartition(block, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(block, some, axis=1)
        order = np.argsort(near, axis=1, kind="stable")
        found.append(np.take_along_axis(some, order, axis=1))
        squares.append(np.take_along_axis(near, order, axis=1))
    return Nearest(np.concatenate(found), np.sqrt(np.concatenate(squares)))


def compare_nearest(
    real: np.ndarray, samples: np.ndarray, *, k: int, quantile: float
) -> dict[str, float]:
    """Returns the share of memorised samples and the median of d_1, and both if all were new.

    What new examples would give is that of the real ones, each against all others: for the share,
    about the quantile.
    """
    new, drawn = nearest_members(real, real, k, others=True), nearest_members(samples, real, k)
    limit = np.quantile(new.ratios, quantile, method="lower")
    return {
        "memorised": float(np.mean(drawn.ratios <= limit)),
        "memorised_if_new": float(np.mean(new.ratios <= limit)),
        "nearest_distance": float(np.median(drawn.distances[:, 0])),
        "nearest_distance_if_new": float(np.median(new.distances[:, 0])),
    }


def memorisation(*, k: int = 5, quantile: float = 0.01) -> Metric:
    """The share of samples that are copies of real examples, by their distances in pixels.

    All real examples are compared, which should be those of the training.
    """
    if k < 2:
        raise ValueError(f"k is {k}: it must be at least 2")
    if not 0 < quantile < 1:
        raise ValueError(f"quantile is {quantile}: it must be between 0 and 1")

    def compare(real: FeatureSet, samples: FeatureSet) -> dict[str, float]:
        return compare_nearest(real.vectors, samples.vectors, k=k, quantile=quantile)

    def obstacle(facts: Facts) -> str | None:
        return None if facts.num_real > k else f"it needs more than {k} real examples"

    # Noise copies nothing: no value is the better for being lower alone.
    return metric_of_sets(compare, obstacle, better={}, features="pixels", default=False)
