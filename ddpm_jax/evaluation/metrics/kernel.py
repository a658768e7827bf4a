"""The kernel distance: the squared maximum mean discrepancy under a polynomial kernel.

    k(x, y) = (x·y / D + 1)³
    MMD²    = mean of k over pairs of x + mean over pairs of y - 2 mean over all x, y    (unbiased)

In Inception's features it is the KID (Bińkowski et al. 2018).
"""

import numpy as np

from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.metrics.metric import Metric, metric_of_sets, need_more_than
from ddpm_jax.evaluation.statistics import FeatureSet

# As torch-fidelity draws its subsets, so that equal features give equal values.
_SEED = 2020


def kernel_distances(
    real: np.ndarray, samples: np.ndarray, *, subsets: int = 100, size: int = 1_000
) -> np.ndarray:
    """Returns MMD² `[subsets]` of random subsets of `size` members each, float64.

    `real` `[N, D]` and `samples` `[M, D]` are floats. Small sets are compared as subsets of their
    own size.
    """
    random = np.random.RandomState(_SEED)
    size = min(size, len(real), len(samples))
    found = []
    for _ in range(subsets):
        x = samples[random.choice(len(samples), size, replace=False)]
        y = real[random.choice(len(real), size, replace=False)]
        found.append(_mmd(x.astype(np.float64), y.astype(np.float64)))
    return np.array(found)


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased MMD² of two sets of the same size m > 1."""
    m = len(x)
    own = sum((k.sum() - np.trace(k)) / (m * (m - 1)) for k in (_kernel(x, x), _kernel(y, y)))
    return float(own - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_distance(*, subsets: int = 100, subset_size: int = 1_000) -> Metric:
    """The kernel distance in the chosen features: mean and deviation over random subsets."""
    return _metric("kernel_distance", None, subsets, subset_size)


def kid(*, subsets: int = 100, subset_size: int = 1_000) -> Metric:
    """The kernel distance in Inception's features."""
    return _metric("kid", "inception", subsets, subset_size)


def _metric(name: str, features: str | None, subsets: int, size: int) -> Metric:
    for option, value, least in (("subsets", subsets, 1), ("subset_size", size, 2)):
        if value < least:
            raise ValueError(f"{option} is {value}: it must be at least {least}")

    def compare(real: FeatureSet, samples: FeatureSet) -> dict[str, float]:
        found = kernel_distances(real.vectors, samples.vectors, subsets=subsets, size=size)
        return {name: float(found.mean()), f"{name}_std": float(found.std())}

    def obstacle(facts: Facts) -> str | None:
        if features is None and facts.features == "inception":
            return "in Inception's features it is called kid"
        return need_more_than(1)(facts)

    return metric_of_sets(
        compare, obstacle, better={name: "lower"}, features=features, default=features is not None
    )
