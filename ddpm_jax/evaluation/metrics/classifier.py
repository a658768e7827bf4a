"""Whether a classifier, fitted on real examples, gives samples the class that was requested."""

import numpy as np

from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.metrics.metric import LIMIT, Metric, metric_of_sets
from ddpm_jax.evaluation.statistics import FeatureSet


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
    classifier = SVC().fit(real.vectors, real.labels)
    classes = np.union1d(real.labels, samples.labels)
    predicted = classifier.predict(samples.vectors)
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


def agreement_with_labels(samples: FeatureSet) -> dict[str, float]:
    """Returns the share of samples that the extractor's own classes find as requested.

    Raises ValueError without logits or labels.
    """
    if samples.logits is None or samples.labels is None:
        raise ValueError("agreement needs the logits of the samples and their labels")
    right = samples.logits.argmax(axis=1) == samples.labels
    return {"agreement": float(right.mean())}


def agreement() -> Metric:
    """Whether the classifier, whose features are chosen, finds the class that was requested."""

    def obstacle(facts: Facts) -> str | None:
        if facts.features != "classifier":
            return "it needs the features classifier"
        return _need_labels(facts)

    return metric_of_sets(
        lambda real, samples: agreement_with_labels(samples),
        obstacle,
        better={"agreement": "higher"},
    )


def svc_accuracy() -> Metric:
    """Whether scikit-learn's SVC(), fitted on real pixels, finds the class that was requested."""
    return metric_of_sets(
        accuracy,
        _need_labels,
        better={"accuracy": "higher"},
        features="pixels",
        most=LIMIT,
        default=False,
    )


def _need_labels(facts: Facts) -> str | None:
    if facts.labelled:
        return None
    return "it needs labelled data and samples, of at least two classes"
