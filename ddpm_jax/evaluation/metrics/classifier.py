"""Whether a classifier of real examples sees in a sample what was asked for."""

import numpy as np

from ddpm_jax.evaluation.metrics.sets import Sets, flat, spread


def confusion(sets: Sets) -> tuple[np.ndarray, np.ndarray]:
    """How often a sample that was asked to be one class is seen as another.

    Returns the labels `[C]`, all that are real or asked for, in their order, and counts int
    `[C, C]`: rows are asked for, columns seen. The judge is scikit-learn's `SVC()` as it comes
    (Gaussian kernel, C = 1), fitted on the real examples: at most 10,000, spread evenly. Raises
    `ValueError` where labels are missing.
    """
    from sklearn.metrics import confusion_matrix
    from sklearn.svm import SVC

    if sets.real_labels is None or sets.labels is None:
        raise ValueError("accuracy needs the labels of the real examples and of the samples")
    chosen = spread(len(sets.real))
    judge = SVC().fit(flat(sets.real[chosen]), sets.real_labels[chosen])
    classes = np.union1d(sets.real_labels, sets.labels)
    seen = judge.predict(flat(sets.samples))
    return classes, confusion_matrix(sets.labels, seen, labels=classes)


def accuracy(sets: Sets) -> dict[str, float]:
    """The share of samples that are seen as what they were asked to be, over all and by class.

    `accuracy/3` is the share of those asked to be 3; classes nobody asked for have none.
    """
    classes, counts = confusion(sets)
    right, asked = np.diagonal(counts), counts.sum(axis=1)
    shares = {
        f"accuracy/{label}": float(hits / total)
        for label, hits, total in zip(classes, right, asked, strict=True)
        if total
    }
    return {"accuracy": float(right.sum() / asked.sum()), **shares}
