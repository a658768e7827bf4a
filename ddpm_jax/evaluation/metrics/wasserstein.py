"""The Wasserstein distance: how far one cloud of points must be moved to become another."""

import numpy as np

from ddpm_jax.evaluation.metrics.metric import Metric, metric_of_sets
from ddpm_jax.evaluation.statistics import FeatureSet


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, *, directions: int = 500) -> float:
    """Returns the sliced Wasserstein-1 distance of points `[N, 2]` and `[M, 2]`, in their units.

    That is the mean Wasserstein distance of their projections (Bonneel et al. 2015, here of order
    1) on `directions` evenly spaced over the half circle; the other half gives the same distances.
    Raises ValueError for arrays of another shape.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1] == 2 and len(a) and len(b)):
        raise ValueError(f"needs points [N, 2] and [M, 2], not {a.shape} and {b.shape}")
    angles = np.pi * np.arange(directions) / directions
    # One direction at a time: 500 × 10,000 sorted floats would be 40 MB per set.
    axes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return float(np.mean([wasserstein(a @ axis, b @ axis) for axis in axes]))


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the exact Wasserstein-1 distance of two samples `[N]` and `[M]` of numbers.

    ∫ |F_a⁻¹(u) - F_b⁻¹(u)| du over u in (0, 1]. Both quantile functions are steps, constant between
    the multiples of 1/N and of 1/M (Peyré and Cuturi 2019).
    """
    n, m = len(a), len(b)
    # Ends of the steps in units of 1/NM: as whole numbers, equal ends are exactly equal.
    ends = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))
    widths = np.diff(ends, prepend=0) / (n * m)
    gaps = np.sort(a)[(ends - 1) // m] - np.sort(b)[(ends - 1) // n]
    return float(np.sum(widths * np.abs(gaps)))


def sliced_wasserstein_distance(*, directions: int = 500) -> Metric:
    """The sliced Wasserstein-1 distance of points in the plane; lower is better."""
    if directions < 1:
        raise ValueError(f"directions is {directions}: it must be at least 1")

    def compare(real: FeatureSet, samples: FeatureSet) -> dict[str, float]:
        found = sliced_wasserstein(real.vectors, samples.vectors, directions=directions)
        return {"sliced_wasserstein": found}

    return metric_of_sets(
        compare,
        lambda facts: None if facts.shape == (2,) else "it needs points in the plane",
        better={"sliced_wasserstein": "lower"},
        features="pixels",
    )
