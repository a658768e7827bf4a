"""The example itself as its feature vector."""

import numpy as np

from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features.extractor import Extractor, FeatureExtractor, Features


def flatten(examples: np.ndarray) -> Features:
    """Returns examples `[B, *shape]` as float32 `[B, D]`, D the product of the shape."""
    return Features(np.asarray(examples, np.float32).reshape(len(examples), -1))


def pixels() -> FeatureExtractor:
    """The example itself: the values of its pixels, or the coordinates of a point."""
    return FeatureExtractor(same_shape, lambda context: Extractor(flatten, {}))


def same_shape(facts: Facts) -> str | None:
    """Returns why examples can't be compared value by value; None if they can."""
    if facts.shape == facts.sample_shape:
        return None
    return f"the samples are {facts.sample_shape}, and the real examples {facts.shape}"
