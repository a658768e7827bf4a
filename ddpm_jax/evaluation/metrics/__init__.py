"""The metrics of a run: the table METRICS, and which of its rows apply to some data.

NumPy and scikit-learn only. To add a metric, write its file and its row here.
"""

from ddpm_jax.evaluation.features import FEATURES
from ddpm_jax.evaluation.metrics.classifier import ACCURACY
from ddpm_jax.evaluation.metrics.metric import Metric, RealData, Request
from ddpm_jax.evaluation.metrics.neighbours import COVERAGE
from ddpm_jax.evaluation.metrics.wasserstein import SLICED_WASSERSTEIN

__all__ = ["METRICS", "Metric", "RealData", "Request", "applicable", "obstacle"]

METRICS: dict[str, Metric] = {
    "accuracy": ACCURACY,
    "coverage": COVERAGE,
    "sliced_wasserstein": SLICED_WASSERSTEIN,
}


def obstacle(metric: Metric, real: RealData) -> str | None:
    """Returns why a metric, or its features, do not apply to some data; None if they do."""
    return metric.obstacle(real) or FEATURES[metric.features].obstacle(real.shape)


def applicable(real: RealData) -> dict[str, Metric]:
    """Returns the metrics that apply to some data."""
    return {name: metric for name, metric in METRICS.items() if obstacle(metric, real) is None}
