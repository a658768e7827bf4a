"""The Fréchet distance of two Gaussians with the means and covariances of the features.

    d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)

In Inception's features it is the FID (Heusel et al. 2017).
"""

import numpy as np

from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.metrics.metric import Metric, need_more_than
from ddpm_jax.evaluation.statistics import Moments, add_moments, no_moments

_PUBLISHED = 50_000


def frechet(real: Moments, samples: Moments) -> float:
    """Returns d², at least 0.

    tr (Σ₁Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½, of symmetric roots. This also holds
    for covariances without full rank, where a general matrix root loses half of its digits.
    """
    gap = real.mean - samples.mean
    roots = [_root(each.covariance) for each in (real, samples)]
    common = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    traces = np.trace(real.covariance) + np.trace(samples.covariance)
    return max(0.0, float(gap @ gap + traces - 2 * common))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_distance() -> Metric:
    """The Fréchet distance in the chosen features; lower is better, and 0 is equal."""
    return _metric("frechet_distance", None)


def fid() -> Metric:
    """The Fréchet distance in Inception's features, as published from 50,000 samples."""
    return _metric("fid", "inception")


def _metric(name: str, features: str | None) -> Metric:
    def obstacle(facts: Facts) -> str | None:
        if features is None and facts.features == "inception":
            return "in Inception's features it is called fid"
        return need_more_than(1)(facts)

    def caution(facts: Facts, samples: Moments) -> str | None:
        number, dimensions = f"{name} is of {facts.num_samples:,} samples", len(samples.mean)
        if facts.num_samples <= dimensions:
            return f"{number} in {dimensions:,} dimensions: so few make it too large; take more"
        if features is not None and facts.num_samples < _PUBLISHED:
            return (
                f"{number}; published ones are of {_PUBLISHED:,}, and fewer give a larger distance"
            )
        return None

    return Metric(
        obstacle,
        no_moments,
        add_moments,
        lambda real, samples: {name: frechet(real, samples)},
        better={name: "lower"},
        features=features,
        moments=lambda known: known,
        caution=caution,
    )
