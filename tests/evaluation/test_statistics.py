import numpy as np
import pytest

from ddpm_jax.evaluation.statistics import Collected, collect, joined

FEATURES = np.random.default_rng(0).normal(size=(11, 3))


@pytest.mark.parametrize("labels", [None, np.arange(11) % 4])
@pytest.mark.parametrize("size", [1, 4, 11])
def test_batches_join_to_the_whole(size, labels):
    state = Collected()
    for start in range(0, 11, size):
        rows = slice(start, start + size)
        state = collect(state, FEATURES[rows], None if labels is None else labels[rows])
    found = joined(state)
    np.testing.assert_array_equal(found.features, FEATURES)
    if labels is None:
        assert found.labels is None
    else:
        np.testing.assert_array_equal(found.labels, labels)


def test_adding_a_batch_leaves_the_state_before_it_as_it_was():
    before = collect(Collected(), FEATURES[:2], None)
    collect(before, FEATURES[2:], None)
    np.testing.assert_array_equal(joined(before).features, FEATURES[:2])
