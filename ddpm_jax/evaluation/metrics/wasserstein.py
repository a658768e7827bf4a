"""The Wasserstein distance: how far one cloud of points must be moved to become another."""

import numpy as np

from ddpm_jax.evaluation.metrics.metric import (
    RealData,
    Request,
    classes_in_turn,
    metric_of_sets,
)


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


def _as_many_as_real(real: RealData) -> Request:
    return Request(np.arange(real.size), real.size, classes_in_turn(real, real.size))


SLICED_WASSERSTEIN = metric_of_sets(
    lambda real, samples: {
        "sliced_wasserstein": sliced_wasserstein(real.features, samples.features)
    },
    obstacle=lambda real: None if real.shape == (2,) else "it needs points in the plane",
    request=_as_many_as_real,
)
