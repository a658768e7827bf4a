import functools

import numpy as np
import pytest

from ddpm_jax.evaluation.metrics import neighbours as module
from ddpm_jax.evaluation.metrics.neighbours import expected_coverage
from ddpm_jax.evaluation.metrics.neighbours import nearest_neighbours as by_k

nearest_neighbours = functools.partial(by_k, k=5)


def gaussian(seed, n, *shape):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32).astype(float)


def by_definition(real, samples, k):
    """The four sums as the papers write them, one distance at a time."""

    def distance(a, b):
        return float(np.linalg.norm(a.ravel().astype(float) - b.ravel().astype(float)))

    def reach(members):
        return [
            sorted(distance(x, y) for j, y in enumerate(members) if j != i)[k - 1]
            for i, x in enumerate(members)
        ]

    in_real = np.array(
        [[distance(x, y) <= r for y in samples] for x, r in zip(real, reach(real), strict=True)]
    )
    in_sample = np.array(
        [[distance(x, y) <= r for y, r in zip(samples, reach(samples), strict=True)] for x in real]
    )
    return {
        "precision": in_real.any(axis=0).mean(),
        "recall": in_sample.any(axis=1).mean(),
        "density": in_real.sum() / (k * len(samples)),
        "coverage": in_real.any(axis=1).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_four_are_what_the_papers_define(k):
    real, samples = gaussian(0, 30, 4), 0.8 * gaussian(1, 23, 4) + 1.2
    expected = by_definition(real, samples, k)
    assert all(0 < value < 1 for key, value in expected.items() if key != "density")
    assert nearest_neighbours(real, samples, k=k) == pytest.approx(expected, abs=1e-12)


def test_they_do_not_depend_on_the_block(monkeypatch):
    real, samples = gaussian(0, 40, 3), gaussian(1, 33, 3)
    whole = nearest_neighbours(real, samples)
    monkeypatch.setattr(module, "_BLOCK", 7 * 33)
    assert nearest_neighbours(real, samples) == whole


def test_a_set_covers_itself_and_nothing_far_away():
    real = gaussian(0, 50, 4)
    itself, far = nearest_neighbours(real, real.copy()), nearest_neighbours(real, real + 100)
    assert (itself["precision"], itself["recall"], itself["coverage"]) == (1, 1, 1)
    assert far == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_one_mode_of_two_is_precise_but_covers_half():
    modes = np.concatenate([gaussian(0, 100, 2), gaussian(1, 100, 2) + 50])
    scores = nearest_neighbours(modes, gaussian(2, 200, 2))
    assert scores["precision"] > 0.9
    assert scores["coverage"] == pytest.approx(0.5, abs=0.02)
    assert scores["recall"] <= 0.5


@pytest.mark.parametrize(("n", "m", "k"), [(60, 60, 3), (60, 30, 1), (40, 80, 5)])
def test_coverage_of_equal_distributions_is_as_expected(n, m, k):
    # 40 independent pairs; a pair's coverage has a deviation of about sqrt(1/4 / n).
    trials = 40
    pairs = [(gaussian((0, i), n, 3), gaussian((1, i), m, 3)) for i in range(trials)]
    scores = [nearest_neighbours(*pair, k=k) for pair in pairs]
    tolerance = 4 * np.sqrt(0.25 / n / trials)
    mean = np.mean([score["coverage"] for score in scores])
    assert mean == pytest.approx(expected_coverage(n, m, k=k), abs=tolerance)
    assert np.mean([score["density"] for score in scores]) == pytest.approx(1, abs=0.05)


def test_expected_coverage_nears_its_limit():
    assert expected_coverage(10**6, 10**6, k=5) == pytest.approx(1 - 2**-5, abs=1e-5)
    assert expected_coverage(2, 1, k=1) == 0.5


@pytest.mark.parametrize(("n", "m", "k"), [(5, 9, 5), (9, 5, 5), (9, 9, 0)])
def test_too_few_for_k_is_refused(n, m, k):
    with pytest.raises(ValueError, match=f"k = {k} needs"):
        nearest_neighbours(gaussian(0, n, 2), gaussian(1, m, 2), k=k)
