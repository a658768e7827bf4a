"""The inception score: how sure the classes of single samples are, and how various all of them.

IS = exp( mean over x of KL( p(y|x) | mean over x of p(y|x) ) )        (Salimans et al. 2016)
"""

import numpy as np

from ddpm_jax.evaluation.metrics.metric import Metric, metric_of_sets, need_more_than
from ddpm_jax.evaluation.statistics import FeatureSet

# As torch-fidelity shuffles, so that equal logits give equal values.
_SEED = 2020


def scores(logits: np.ndarray, *, splits: int = 10) -> np.ndarray:
    """Returns the scores `[splits]` of shuffled parts of logits `[N, K]`, each at least 1.

    Raises ValueError for fewer rows than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"{splits} splits need as many samples, and there are {len(logits)}")
    random = np.random.RandomState(_SEED)
    shuffled = _log_softmax(logits[random.permutation(len(logits))].astype(np.float64))
    found = []
    for k in range(splits):
        part = shuffled[k * len(logits) // splits : (k + 1) * len(logits) // splits]
        p = np.exp(part)
        divergence = np.sum(p * (part - np.log(p.mean(axis=0))), axis=1)
        found.append(np.exp(divergence.mean()))
    return np.array(found)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    below = logits - logits.max(axis=1, keepdims=True)
    return below - np.log(np.exp(below).sum(axis=1, keepdims=True))


def inception_score(*, splits: int = 10) -> Metric:
    """The inception score of the samples alone: its mean and deviation over parts of them."""
    if splits < 1:
        raise ValueError(f"splits is {splits}: it must be at least 1")

    def compare(real: FeatureSet, samples: FeatureSet) -> dict[str, float]:
        assert samples.logits is not None, "Inception gives logits"
        found = scores(samples.logits, splits=splits)
        return {"inception_score": float(found.mean()), "inception_score_std": float(found.std())}

    return metric_of_sets(
        compare,
        need_more_than(splits - 1),
        better={"inception_score": "higher"},
        features="inception",
    )
