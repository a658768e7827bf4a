import itertools

import numpy as np
import pytest

from ddpm_jax.evaluation.metrics.kernel import kernel_distances


def by_definition(x, y):
    """The unbiased estimate as the paper writes it, one pair at a time."""

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    m = len(x)
    pairs = list(itertools.permutations(range(m), 2))
    own = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / (m * (m - 1))
    return own - 2 * np.mean([k(a, b) for a in x for b in y])


def test_subsets_of_the_whole_are_the_estimate_of_the_paper():
    real, samples = np.random.default_rng(0).normal(size=(2, 9, 4))
    found = kernel_distances(real, samples + 0.3, subsets=3, size=9)
    assert found == pytest.approx(3 * [by_definition(samples + 0.3, real)], rel=1e-12)


def test_equal_distributions_have_a_mean_of_zero():
    """The estimate has no bias: its mean is within four standard errors of 0."""
    rng = np.random.default_rng(1)

    def one(gap):
        real, samples = rng.normal(size=(2, 50, 3))
        return kernel_distances(real, samples + gap, subsets=1, size=50)[0]

    found = np.array([one(0) for _ in range(400)])
    assert abs(found.mean()) < 4 * found.std() / 20
    assert one(1) > 1


def test_subsets_differ_and_never_repeat_a_member():
    real = np.random.default_rng(2).normal(size=(40, 3))
    found = kernel_distances(real, real, subsets=5, size=20)
    assert len(set(found)) == 5
    # A subset of all members is the set itself, whatever the draw.
    whole = kernel_distances(real, real, subsets=2, size=100)
    assert whole[0] == pytest.approx(whole[1], rel=1e-9)
