"""The metrics: the table METRICS.

A row is a function whose keyword-only parameters are its options. It makes a `Metric`, which
compares samples with real examples, or a `Measurement` of a run's network on real examples. To add
one, write its file and its row here.
"""

from collections.abc import Callable
from typing import Any

from ddpm_jax.evaluation.metrics.classifier import agreement, svc_accuracy
from ddpm_jax.evaluation.metrics.flow import ode_bits_per_dim
from ddpm_jax.evaluation.metrics.frechet import fid, frechet_distance
from ddpm_jax.evaluation.metrics.inception_score import inception_score
from ddpm_jax.evaluation.metrics.kernel import kernel_distance, kid
from ddpm_jax.evaluation.metrics.likelihood import bits_per_dim
from ddpm_jax.evaluation.metrics.measurement import Measurement
from ddpm_jax.evaluation.metrics.memorisation import memorisation
from ddpm_jax.evaluation.metrics.metric import Metric
from ddpm_jax.evaluation.metrics.neighbours import coverage, precision_recall
from ddpm_jax.evaluation.metrics.wasserstein import sliced_wasserstein_distance

__all__ = ["METRICS", "Measurement", "Metric"]

METRICS: dict[str, Callable[..., Any]] = {
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
    "bits_per_dim": bits_per_dim,
    "ode_bits_per_dim": ode_bits_per_dim,
}
