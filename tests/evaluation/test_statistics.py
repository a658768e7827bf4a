import numpy as np
import pytest

from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.statistics import (
    Collected,
    add_moments,
    collect,
    joined,
    no_moments,
)

VECTORS = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
LOGITS = np.random.default_rng(1).normal(size=(11, 2)).astype(np.float32)


@pytest.mark.parametrize("labels", [None, np.arange(11) % 4])
@pytest.mark.parametrize("logits", [None, LOGITS])
@pytest.mark.parametrize("size", [1, 4, 11])
def test_batches_join_to_the_whole(size, labels, logits):
    state, whole = Collected(), Features(VECTORS, logits)
    for start in range(0, 11, size):
        rows = np.arange(start, min(start + size, 11))
        state = collect(state, whole.take(rows), None if labels is None else labels[rows])
    found = joined(state)
    np.testing.assert_array_equal(found.vectors, VECTORS)
    for part, expected in ((found.logits, logits), (found.labels, labels)):
        assert (part is None) == (expected is None)
        if part is not None:
            np.testing.assert_array_equal(part, expected)


def test_adding_a_batch_leaves_the_state_before_it_as_it_was():
    before = collect(Collected(), Features(VECTORS[:2]), None)
    collect(before, Features(VECTORS[2:]), None)
    np.testing.assert_array_equal(joined(before).vectors, VECTORS[:2])


@pytest.mark.parametrize("size", [1, 4, 11])
@pytest.mark.parametrize("offset", [0, 1e6])
def test_moments_of_batches_are_those_of_the_whole(size, offset):
    """Also far from zero, where a sum of squares would lose all digits."""
    vectors, state = VECTORS + np.float32(offset), no_moments()
    for start in range(0, 11, size):
        state = add_moments(state, Features(vectors[start : start + size]), None)
    whole = vectors.astype(np.float64)
    assert state.size == 11
    np.testing.assert_allclose(state.mean, whole.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state.covariance, np.cov(whole.T), rtol=1e-9, atol=1e-12)
