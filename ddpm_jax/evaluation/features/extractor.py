"""The contract of a feature extractor."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Extract = Callable[[np.ndarray], np.ndarray]
"""float32 examples `[B, *shape]`, images in [-1, 1], become float64 features `[B, D]`."""


class FeatureExtractor(NamedTuple):
    """A map from examples to feature vectors.

    `obstacle` says in a few words why it does not apply to examples of a shape, or None if it does.
    `load` returns the map. It is called once in an evaluation, and may read weights or compile.
    """

    obstacle: Callable[[tuple[int, ...]], str | None]
    load: Callable[[], Extract]
