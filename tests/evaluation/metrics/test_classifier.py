import numpy as np
import pytest

from ddpm_jax.evaluation.metrics import Sets
from ddpm_jax.evaluation.metrics.classifier import accuracy, confusion


def blobs(seed, counts):
    """Pictures [N, 2, 1, 1] around one far corner for each class, and their labels."""
    corners = np.array([[-1, -1], [1, -1], [1, 1]])
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = 0.05 * np.random.default_rng(seed).normal(size=(len(labels), 2))
    return (corners[labels] + noise).astype(np.float32).reshape(-1, 2, 1, 1), labels


def test_a_wrong_label_counts_for_what_was_asked():
    real, real_labels = blobs(0, [20, 20, 20])
    samples, seen = blobs(1, [4, 5, 6])
    asked = seen.copy()
    asked[:3] = 2  # three pictures of a 0 that were asked to be a 2
    classes, counts = confusion(Sets(real, real_labels, samples, asked))
    np.testing.assert_array_equal(classes, [0, 1, 2])
    np.testing.assert_array_equal(counts, [[1, 0, 0], [0, 5, 0], [3, 0, 6]])
    scores = accuracy(Sets(real, real_labels, samples, asked))
    expected = {"accuracy": 12 / 15, "accuracy/0": 1, "accuracy/1": 1, "accuracy/2": 6 / 9}
    assert scores == pytest.approx(expected)


def test_a_class_nobody_asked_for_has_no_share():
    real, real_labels = blobs(0, [20, 20, 20])
    samples, labels = blobs(1, [4, 0, 6])
    scores = accuracy(Sets(real, real_labels, samples, labels))
    assert scores == {"accuracy": 1, "accuracy/0": 1, "accuracy/2": 1}


def test_labels_are_needed():
    real, labels = blobs(0, [5, 5])
    with pytest.raises(ValueError, match="needs the labels"):
        accuracy(Sets(real, labels, real, None))
