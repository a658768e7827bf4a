"""What metrics compare: FEATURES turns a batch of examples into a vector for each of them.

A row is a function whose keyword-only parameters are its options. To add a feature network, write
its file and its row here; the first default row that applies to some data is taken.
"""

from collections.abc import Callable

from ddpm_jax.evaluation.features.classifier import classifier
from ddpm_jax.evaluation.features.extractor import (
    Extractor,
    FeatureContext,
    FeatureExtractor,
    Features,
)
from ddpm_jax.evaluation.features.inception import inception
from ddpm_jax.evaluation.features.pixels import pixels

__all__ = ["FEATURES", "Extractor", "FeatureContext", "FeatureExtractor", "Features"]

FEATURES: dict[str, Callable[..., FeatureExtractor]] = {
    "classifier": classifier,
    "pixels": pixels,
    "inception": inception,
}
