"""What metrics compare: FEATURES turns a batch of examples into a vector for each of them.

To add a feature network, write its file and its row here; a metric names the row that it wants.
"""

from ddpm_jax.evaluation.features.extractor import Extract, FeatureExtractor
from ddpm_jax.evaluation.features.pixels import PIXELS

__all__ = ["FEATURES", "Extract", "FeatureExtractor"]

FEATURES: dict[str, FeatureExtractor] = {
    "pixels": PIXELS,
}
