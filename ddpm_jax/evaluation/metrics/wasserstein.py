"""How far one cloud of points has to be moved to become another."""

import numpy as np


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, *, directions: int = 500) -> float:
    """The sliced Wasserstein-1 distance of points `[N, 2]` and `[M, 2]`, in their own units.

    The mean of the distances of their projections (Bonneel et al. 2015, here of order 1), over
    directions that lie evenly on the half circle; the other half repeats them. Raises `ValueError`
    for arrays of another shape.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1] == 2 and len(a) and len(b)):
        raise ValueError(f"needs points [N, 2] and [M, 2], not {a.shape} and {b.shape}")
    angles = np.pi * np.arange(directions) / directions
    # One direction at a time: 500 × 10,000 sorted floats would be 40 MB a set.
    axes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return float(np.mean([wasserstein(a @ axis, b @ axis) for axis in axes]))


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """The Wasserstein-1 distance of two samples `[N]` and `[M]` of numbers, exactly.

    ∫ |F_a⁻¹(u) - F_b⁻¹(u)| du over u in (0, 1]: both quantile functions are steps, constant
    between the multiples of 1/N and of 1/M (Peyré and Cuturi 2019).
    """
    n, m = len(a), len(b)
    # The ends of the steps in units of 1/NM, whole numbers, so that common ones coincide.
    ends = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))
    widths = np.diff(ends, prepend=0) / (n * m)
    gaps = np.sort(a)[(ends - 1) // m] - np.sort(b)[(ends - 1) // n]
    return float(np.sum(widths * np.abs(gaps)))
