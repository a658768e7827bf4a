"""What a metric compares, and how much of it."""

from typing import NamedTuple

import numpy as np

LIMIT = 10_000
"""Examples that a metric of quadratic cost looks at; the brute force over them takes seconds."""


class Sets(NamedTuple):
    """The real examples and the samples that are judged by them.

    `real` `[N, *shape]` and `samples` `[M, *shape]` are float32 on [-1, 1]; `real_labels` int
    `[N]` and `labels` int `[M]`, what each sample was asked to be, are None where there are none.
    """

    real: np.ndarray
    real_labels: np.ndarray | None
    samples: np.ndarray
    labels: np.ndarray | None


def spread(n: int) -> np.ndarray:
    """Indices `[min(n, LIMIT)]` of n examples, evenly spread over all of them."""
    size = min(n, LIMIT)
    return np.arange(size) * n // size


def flat(examples: np.ndarray) -> np.ndarray:
    """float64 `[N, D]` of examples `[N, *shape]`."""
    return np.asarray(examples, np.float64).reshape(len(examples), -1)
