"""Fidelity and diversity by nearest neighbours in the space of features.

B(x) is the ball around x whose radius is the distance to the k-th nearest other member of x's own
set. X_i are N real examples, Y_j are M samples.

    precision = 1/M  Σ_j 1[Y_j in some B(X_i)]      (1)  Kynkäänniemi et al. 2019
    recall    = 1/N  Σ_i 1[X_i in some B(Y_j)]      (2)  Kynkäänniemi et al. 2019
    density   = 1/kM Σ_j Σ_i 1[Y_j in B(X_i)]       (3)  Naeem et al. 2020
    coverage  = 1/N  Σ_i 1[some Y_j in B(X_i)]      (4)  Naeem et al. 2020
"""

import math
from collections.abc import Iterator

import numpy as np

from ddpm_jax.evaluation.metrics.metric import (
    LIMIT,
    Better,
    Metric,
    metric_of_sets,
    need_more_than,
)
from ddpm_jax.evaluation.statistics import FeatureSet

# Distances held at once, 32 MiB of float64, so that memory is bounded for sets of any size.
_BLOCK = 2**22


def nearest_neighbours(real: np.ndarray, samples: np.ndarray, *, k: int) -> dict[str, float]:
    """Returns precision, recall, density and coverage, (1) to (4), by the k nearest neighbours.

    `real` `[N, D]` and `samples` `[M, D]` have one scale. Density is about 1 for
    equal distributions and may be more; the others are in [0, 1]. Raises ValueError unless both
    sets have more than k members.
    """
    n, m = len(real), len(samples)
    if not 1 <= k < min(n, m):
        raise ValueError(f"k = {k} needs 1 ≤ k < the sizes of both sets, {n} and {m}")
    real_radius, sample_radius = _radii(real, k), _radii(samples, k)
    in_real, in_sample = np.zeros(m, np.int64), np.zeros(n, bool)
    covered = np.zeros(n, bool)
    for rows, distances in squared_distances(real, samples):
        near = distances <= real_radius[rows, None]
        in_real += near.sum(axis=0)
        covered[rows] = near.any(axis=1)
        in_sample[rows] = (distances <= sample_radius).any(axis=1)
    return {
        "precision": float(np.mean(in_real > 0)),
        "recall": float(np.mean(in_sample)),
        "density": float(np.mean(in_real) / k),
        "coverage": float(np.mean(covered)),
    }


def expected_coverage(n: int, m: int, *, k: int) -> float:
    """Returns the coverage of n real examples by m samples expected of equal distributions.

    1 - (n-1)…(n-k) / ((n+m-1)…(n+m-k)): X_i is uncovered if its k nearest of all n + m - 1 others
    are real (Naeem et al. 2020). It approaches 1 - 2^-k where n = m.
    """
    return 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))


def _radii(members: np.ndarray, k: int) -> np.ndarray:
    """Returns the squared distance `[N]` of each member to its k-th nearest other one."""
    radii = np.empty(len(members))
    for rows, distances in squared_distances(members, members):
        distances[np.arange(len(rows)), rows] = np.inf
        radii[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return radii


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields blocks of rows i of a `[N, D]`, with their squared distances `[len(i), M]` to all b.

    In float64, since |a|² + |b|² - 2ab cancels; what is below zero is rounding.
    """
    b = b.astype(np.float64)
    squares = np.einsum("ij,ij->i", b, b)  # b**2 would be held whole.
    step = max(1, _BLOCK // len(b))
    for start in range(0, len(a), step):
        rows = np.arange(start, min(start + step, len(a)))
        block = a[rows].astype(np.float64)
        distances = np.sum(block**2, axis=1)[:, None] + squares - 2 * block @ b.T
        yield rows, np.maximum(distances, 0, out=distances)


def precision_recall(*, k: int = 3) -> Metric:
    """Precision (fidelity) and recall (diversity) by the k nearest neighbours."""
    return _metric(("precision", "recall"), k)


def coverage(*, k: int = 5) -> Metric:
    """Density (fidelity) and coverage (diversity) by the k nearest neighbours."""
    return _metric(("density", "coverage"), k)


def _metric(names: tuple[str, str], k: int) -> Metric:
    if k < 1:
        raise ValueError(f"k is {k}: it must be at least 1")

    def compare(real: FeatureSet, samples: FeatureSet) -> dict[str, float]:
        found = nearest_neighbours(real.vectors, samples.vectors, k=k)
        values = {name: found[name] for name in names}
        if "coverage" in names:
            equal = expected_coverage(len(real.vectors), len(samples.vectors), k=k)
            values["coverage_if_equal"] = equal
        return values

    better: dict[str, Better] = {name: "higher" for name in names if name != "density"}
    return metric_of_sets(compare, need_more_than(k), better=better, most=LIMIT)
