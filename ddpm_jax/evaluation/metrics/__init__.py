"""The metrics of samples: the table METRICS, and which of its rows apply.

A row is a function whose keyword-only parameters are its options. NumPy and scikit-learn only.
To add a metric, write its file and its row here.
"""

from collections.abc import Callable

from ddpm_jax.evaluation.metrics.classifier import agreement, svc_accuracy
from ddpm_jax.evaluation.metrics.frechet import fid, frechet_distance
from ddpm_jax.evaluation.metrics.inception_score import inception_score
from ddpm_jax.evaluation.metrics.kernel import kernel_distance, kid
from ddpm_jax.evaluation.metrics.memorisation import memorisation
from ddpm_jax.evaluation.metrics.metric import Metric
from ddpm_jax.evaluation.metrics.neighbours import coverage, precision_recall
from ddpm_jax.evaluation.metrics.wasserstein import sliced_wasserstein_distance

__all__ = ["METRICS", "Metric"]

METRICS: dict[str, Callable[..., Metric]] = {
    "frechet_distance": frechet_distance,
    "kernel_distance": kernel_distance,
    "precision_recall": precision_recall,
    "coverage": coverage,
    "agreement": agreement,
    "memorisation": memorisation,
    "accuracy": svc_accuracy,
    "sliced_wasserstein": sliced_wasserstein_distance,
    "fid": fid,
    "kid": kid,
    "inception_score": inception_score,
}
