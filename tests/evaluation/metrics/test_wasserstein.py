import numpy as np
import pytest

from ddpm_jax.evaluation.metrics.wasserstein import sliced_wasserstein, wasserstein


@pytest.mark.parametrize(("n", "m"), [(7, 7), (6, 4), (1, 9), (12, 5)])
def test_one_dimension_agrees_with_scipy(n, m):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng((n, m))
    a, b = rng.normal(size=n), rng.normal(size=m) * 2 + 1
    assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-12)


def test_repeating_every_number_changes_nothing():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(size=3)
    assert wasserstein(a.repeat(4), b) == pytest.approx(wasserstein(a, b), rel=1e-12)


@pytest.mark.parametrize("directions", [1, 2, 500])
def test_a_shift_costs_its_projections(directions):
    points = np.random.default_rng(0).normal(size=(50, 2))
    shift = np.array([0.3, -1.1])
    angles = np.pi * np.arange(directions) / directions
    expected = np.mean(np.abs(np.cos(angles) * shift[0] + np.sin(angles) * shift[1]))
    distance = sliced_wasserstein(points, points + shift, directions=directions)
    assert distance == pytest.approx(expected, rel=1e-9)


def test_with_many_directions_a_shift_costs_two_over_pi_of_its_length():
    points, shift = np.zeros((1, 2)), np.array([3, 4])
    # The mean of |cos| over the circle; evenly spread directions are off by O(1/500²).
    assert sliced_wasserstein(points, points + shift) == pytest.approx(10 / np.pi, rel=1e-5)


def test_it_is_a_distance():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(20, 2)), rng.normal(size=(15, 2)) + 1, rng.normal(size=(8, 2))
    assert sliced_wasserstein(a, a) == 0
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(b, a), rel=1e-12)
    assert sliced_wasserstein(a, b) <= sliced_wasserstein(a, c) + sliced_wasserstein(c, b)
    assert sliced_wasserstein(2 * a, 2 * b) == pytest.approx(2 * sliced_wasserstein(a, b))


@pytest.mark.parametrize("shape", [(5,), (5, 3), (0, 2)])
def test_what_is_not_points_is_refused(shape):
    with pytest.raises(ValueError, match=r"needs points \[N, 2\]"):
        sliced_wasserstein(np.zeros((4, 2)), np.zeros(shape))
