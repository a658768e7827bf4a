"""Fidelity and diversity by nearest neighbours, in the space of the examples themselves.

B(x) is the ball around x that reaches to the k-th nearest other member of x's own set. X_i are
N real examples, Y_j are M samples.

    precision = 1/M  Σ_j 1[Y_j in some B(X_i)]      (1)  Kynkäänniemi et al. 2019
    recall    = 1/N  Σ_i 1[X_i in some B(Y_j)]      (2)  Kynkäänniemi et al. 2019
    density   = 1/kM Σ_j Σ_i 1[Y_j in B(X_i)]       (3)  Naeem et al. 2020
    coverage  = 1/N  Σ_i 1[some Y_j in B(X_i)]      (4)  Naeem et al. 2020
"""

import math
from collections.abc import Iterator

import numpy as np

from ddpm_jax.evaluation.metrics.sets import flat

# Distances held at a time, 32 MiB of float64: memory stays bounded whatever the sets' sizes.
_BLOCK = 2**22


def nearest_neighbours(real: np.ndarray, samples: np.ndarray, *, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage, (1) to (4), of samples by their k nearest.

    `real` `[N, *shape]` and `samples` `[M, *shape]` of one scale. Density is about 1 and may be
    more, the others are in [0, 1]. Raises `ValueError` unless both sets have more than k members.
    """
    real, samples = flat(real), flat(samples)
    n, m = len(real), len(samples)
    if not 1 <= k < min(n, m):
        raise ValueError(f"k = {k} needs 1 ≤ k < the sizes of both sets, {n} and {m}")
    real_reach, sample_reach = _reach(real, k), _reach(samples, k)
    in_real, in_sample = np.zeros(m, np.int64), np.zeros(n, bool)
    covered = np.zeros(n, bool)
    for rows, distances in _distances(real, samples):
        near = distances <= real_reach[rows, None]
        in_real += near.sum(axis=0)
        covered[rows] = near.any(axis=1)
        in_sample[rows] = (distances <= sample_reach).any(axis=1)
    return {
        "precision": float(np.mean(in_real > 0)),
        "recall": float(np.mean(in_sample)),
        "density": float(np.mean(in_real) / k),
        "coverage": float(np.mean(covered)),
    }


def expected_coverage(n: int, m: int, *, k: int = 5) -> float:
    """The coverage to expect of n real examples by m samples if their distributions are equal.

    1 - (n-1)…(n-k) / ((n+m-1)…(n+m-k)): X_i is uncovered where its k nearest of all n + m - 1
    others are real (Naeem et al. 2020). It nears 1 - 2^-k where n = m.
    """
    return 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))


def _reach(members: np.ndarray, k: int) -> np.ndarray:
    """The squared distance `[N]` of each member to its k-th nearest other one."""
    reach = np.empty(len(members))
    for rows, distances in _distances(members, members):
        distances[np.arange(len(rows)), rows] = np.inf
        reach[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return reach


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of rows i of a `[N, D]`, and their squared distances `[len(i), M]` to all of b.

    In float64, since |a|² + |b|² - 2ab cancels; what is left below zero is rounding.
    """
    squares = np.sum(b**2, axis=1)
    step = max(1, _BLOCK // len(b))
    for start in range(0, len(a), step):
        rows = np.arange(start, min(start + step, len(a)))
        block = a[rows]
        distances = np.sum(block**2, axis=1)[:, None] + squares - 2 * block @ b.T
        yield rows, np.maximum(distances, 0, out=distances)
