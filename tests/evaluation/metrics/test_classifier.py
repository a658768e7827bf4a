import numpy as np
import pytest

from ddpm_jax.evaluation.metrics.classifier import accuracy, agreement_with_labels, confusion
from ddpm_jax.evaluation.statistics import FeatureSet


def blobs(seed, counts):
    """Features [N, 2] around one far corner for each class, with their labels."""
    corners = np.array([[-1, -1], [1, -1], [1, 1]])
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = 0.05 * np.random.default_rng(seed).normal(size=(len(labels), 2))
    return FeatureSet(corners[labels] + noise, None, labels)


def test_a_wrong_label_counts_for_the_class_that_was_requested():
    real, samples = blobs(0, [20, 20, 20]), blobs(1, [4, 5, 6])
    requested = np.array(samples.labels)
    requested[:3] = 2  # three samples that look like a 0 were requested as a 2
    samples = samples._replace(labels=requested)
    classes, counts = confusion(real, samples)
    np.testing.assert_array_equal(classes, [0, 1, 2])
    np.testing.assert_array_equal(counts, [[1, 0, 0], [0, 5, 0], [3, 0, 6]])
    expected = {"accuracy": 12 / 15, "accuracy/0": 1, "accuracy/1": 1, "accuracy/2": 6 / 9}
    assert accuracy(real, samples) == pytest.approx(expected)


def test_a_class_without_samples_has_no_entry():
    scores = accuracy(blobs(0, [20, 20, 20]), blobs(1, [4, 0, 6]))
    assert scores == {"accuracy": 1, "accuracy/0": 1, "accuracy/2": 1}


def test_labels_are_needed():
    real = blobs(0, [5, 5])
    with pytest.raises(ValueError, match="needs the labels"):
        accuracy(real, real._replace(labels=None))


def test_agreement_is_the_share_whose_largest_logit_is_the_label():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 4.0], [5.0, 1.0]])
    samples = FeatureSet(np.zeros((4, 1)), logits, np.array([0, 1, 0, 0]))
    assert agreement_with_labels(samples) == {"agreement": 0.75}
    for lacking in ({"logits": None}, {"labels": None}):
        with pytest.raises(ValueError, match="needs the logits of the samples and their labels"):
            agreement_with_labels(samples._replace(**lacking))
