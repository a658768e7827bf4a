"""The contract of a feature extractor."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.data.source import Source
from ddpm_jax.evaluation.facts import Facts


class Features(NamedTuple):
    """Features of some examples, each of its example alone.

    `vectors` is float32 `[B, D]`. `logits` is float32 `[B, K]`, of the classes that the extractor
    knows; None if it classifies nothing.
    """

    vectors: np.ndarray
    logits: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Features":
        """Returns the features of some examples."""
        logits = None if self.logits is None else self.logits[rows]
        return Features(self.vectors[rows], logits)


class FeatureContext(NamedTuple):
    """What an extractor may need to be loaded.

    `source` has examples to learn from: the real ones, or those of the training; None if only
    statistics are known. `report` gets lines about work that takes long.
    """

    source: Source | None
    report: Callable[[str], None]


class Extractor(NamedTuple):
    """A loaded extractor.

    `extract` turns float32 examples `[B, *shape]`, images in [-1, 1], into features. `described`
    has, as plain values, all that decides them: the digest of weights, how pictures are resized.
    """

    extract: Callable[[np.ndarray], Features]
    described: dict[str, Any]


class FeatureExtractor(NamedTuple):
    """A map from examples to features; a row of FEATURES makes it of its options.

    `obstacle` says in a few words why it does not apply, or None if it does. `load` is called once
    in an evaluation; it may read weights, train or compile. `default` says whether it may be chosen
    without being named: the first such row that applies is.
    """

    obstacle: Callable[[Facts], str | None]
    load: Callable[[FeatureContext], Extractor]
    default: bool = True
