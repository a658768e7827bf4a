import numpy as np
import pytest

from ddpm_jax.evaluation.metrics.inception_score import inception_score, scores


def test_sure_and_various_samples_score_the_number_of_classes():
    logits = 100 * np.eye(4)[np.arange(40) % 4]
    assert scores(logits, splits=1) == pytest.approx([4])
    assert scores(logits[:1].repeat(40, axis=0), splits=4) == pytest.approx(np.ones(4))
    assert scores(np.zeros((40, 4)), splits=1) == pytest.approx([1])


def test_two_kinds_of_samples_by_hand():
    """Half of them p = (3/4, 1/4), half the reverse: KL to (1/2, 1/2) is ¾ ln 3/2 + ¼ ln 1/2."""
    logits = np.log(np.array([[3.0, 1.0], [1.0, 3.0]])).repeat(5, axis=0) + 7
    expected = np.exp(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert scores(logits, splits=1) == pytest.approx([expected])


def test_each_sample_is_in_one_split():
    """Far apart classes, one sample each: a split of n samples scores n."""
    found = scores(100 * np.eye(12), splits=5)
    assert sorted(found) == pytest.approx([2, 2, 2, 3, 3])
    with pytest.raises(ValueError, match="5 splits need as many samples, and there are 4"):
        scores(np.eye(4), splits=5)
    with pytest.raises(ValueError, match="splits is 0: it must be at least 1"):
        inception_score(splits=0)
