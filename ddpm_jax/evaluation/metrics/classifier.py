"""Whether a classifier, fitted on real examples, gives samples the class that was requested."""

import numpy as np

from ddpm_jax.evaluation.metrics.metric import (
    RealData,
    Request,
    evenly_spread,
    metric_of_sets,
)
from ddpm_jax.evaluation.statistics import FeatureSet

_PER_CLASS = 50


def confusion(real: FeatureSet, samples: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
    """Counts how often samples of each requested class are classified as each class.

    Returns the labels `[C]` that are real or requested, in rising order, and counts int `[C, C]`:
    rows are the requested classes, columns the predicted ones. The classifier is scikit-learn's
    `SVC()` with its defaults (Gaussian kernel, C = 1), fitted on the real examples. Raises
    ValueError if labels are missing.
    """
    from sklearn.metrics import confusion_matrix
    from sklearn.svm import SVC

    if real.labels is None or samples.labels is None:
        raise ValueError("accuracy needs the labels of the real examples and of the samples")
    classifier = SVC().fit(real.features, real.labels)
    classes = np.union1d(real.labels, samples.labels)
    predicted = classifier.predict(samples.features)
    return classes, confusion_matrix(samples.labels, predicted, labels=classes)


def accuracy(real: FeatureSet, samples: FeatureSet) -> dict[str, float]:
    """Returns the share of samples that are classified as requested, over all and by class.

    `accuracy/3` is the share among the samples of class 3. Classes without a sample have no entry.
    """
    classes, counts = confusion(real, samples)
    right, requested = np.diagonal(counts), counts.sum(axis=1)
    shares = {
        f"accuracy/{label}": float(hits / total)
        for label, hits, total in zip(classes, right, requested, strict=True)
        if total
    }
    return {"accuracy": float(right.sum() / requested.sum()), **shares}


def _obstacle(real: RealData) -> str | None:
    if real.labels is None or real.num_classes == 0:
        return "it needs labelled data and a network that takes labels"
    return None if len(np.unique(real.labels)) > 1 else "it needs at least two classes"


def _some_of_each_class(real: RealData) -> Request:
    labels = np.repeat(np.arange(real.num_classes, dtype=np.int32), _PER_CLASS)
    return Request(evenly_spread(real.size), len(labels), labels)


ACCURACY = metric_of_sets(accuracy, obstacle=_obstacle, request=_some_of_each_class)
