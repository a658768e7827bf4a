"""Copies are found, and new examples are not taken for copies."""

import numpy as np
import pytest

from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.metrics import METRICS, neighbours
from ddpm_jax.evaluation.metrics.memorisation import compare_nearest, nearest_members


def gaussian(seed, n, dimensions=8):
    return np.random.default_rng(seed).normal(size=(n, dimensions)).astype(np.float32)


@pytest.mark.parametrize("others", [False, True])
def test_the_nearest_are_those_of_the_definition(others, monkeypatch):
    members = gaussian(0, 40)
    vectors = members if others else gaussian(1, 23)
    squares = np.sum((vectors[:, None].astype(float) - members) ** 2, axis=2)
    if others:
        np.fill_diagonal(squares, np.inf)
    order = np.argsort(squares, axis=1)[:, :4]
    for block in (7 * 40, 2**22):
        monkeypatch.setattr(neighbours, "_BLOCK", block)
        found = nearest_members(vectors, members, 4, others=others)
        np.testing.assert_array_equal(found.members, order)
        distances = np.sqrt(np.take_along_axis(squares, order, axis=1))
        np.testing.assert_allclose(found.distances, distances, rtol=1e-9)
        np.testing.assert_allclose(found.ratios, distances[:, 0] / distances.mean(axis=1))


def test_the_share_of_planted_copies_is_found():
    real = gaussian(0, 600, 16)
    copies = real[:120] + 0.05 * gaussian(1, 120, 16)
    samples = np.concatenate([copies, gaussian(2, 280, 16)])
    found = compare_nearest(real, samples, k=5, quantile=0.01)
    assert found["memorised"] == pytest.approx(0.3, abs=4 * np.sqrt(0.01 / 280))
    assert found["memorised"] >= 0.3
    assert compare_nearest(real, real, k=5, quantile=0.01)["memorised"] == 1
    alike = compare_nearest(real, copies, k=5, quantile=0.01)
    assert alike["nearest_distance"] < 0.1 * alike["nearest_distance_if_new"]


@pytest.mark.parametrize("quantile", [0.01, 0.1])
def test_new_examples_give_the_nominal_share(quantile):
    """Over 20 independent pairs; both the limit and the share vary like a binomial."""
    n, m, trials = 300, 300, 20
    found = [
        compare_nearest(gaussian((0, i), n), gaussian((1, i), m), k=5, quantile=quantile)
        for i in range(trials)
    ]
    tolerance = 4 * np.sqrt(quantile * (1 / n + 1 / m) / trials) + 1 / n
    assert np.mean([it["memorised"] for it in found]) == pytest.approx(quantile, abs=tolerance)
    assert found[0]["memorised_if_new"] == pytest.approx(quantile, abs=1 / n)
    distances = [it["nearest_distance"] / it["nearest_distance_if_new"] for it in found]
    assert np.mean(distances) == pytest.approx(1, abs=0.02)


def test_samples_without_detail_are_no_copies():
    """They are nearer to all examples than these to each other, and near to none alone."""
    real = gaussian(0, 400, 16)
    found = compare_nearest(real, 0.1 * gaussian(1, 200, 16), k=5, quantile=0.01)
    assert found["nearest_distance"] < 0.95 * found["nearest_distance_if_new"]
    assert found["memorised"] <= 0.02


def test_examples_that_are_all_equal_are_copies():
    same = np.ones((20, 4), np.float32)
    found = compare_nearest(same, same[:5], k=5, quantile=0.01)
    assert (found["memorised"], found["memorised_if_new"]) == (1, 1)


def test_the_row_compares_pixels_when_it_is_named():
    metric = METRICS["memorisation"]()
    assert (metric.features, metric.default, metric.most) == ("pixels", False, None)
    states = [
        metric.update(metric.init(), Features(vectors), None)
        for vectors in (gaussian(0, 100), gaussian(0, 100)[:30])
    ]
    assert metric.result(*states)["memorised"] == 1


def test_too_few_and_options_out_of_range_are_refused():
    facts = Facts((8, 8, 1), (8, 8, 1), 5, 100, 0, 0)
    assert METRICS["memorisation"]().obstacle(facts) == "it needs more than 5 real examples"
    assert METRICS["memorisation"]().obstacle(facts._replace(num_real=6)) is None
    with pytest.raises(ValueError, match="k is 1: it must be at least 2"):
        METRICS["memorisation"](k=1)
    with pytest.raises(ValueError, match=r"quantile is 1\.0: it must be between 0 and 1"):
        METRICS["memorisation"](quantile=1.0)
    with pytest.raises(ValueError, match="k = 5 needs"):
        nearest_members(gaussian(0, 5), gaussian(0, 5), 5, others=True)
