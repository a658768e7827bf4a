import numpy as np
import pytest

from ddpm_jax.evaluation.metrics.frechet import frechet
from ddpm_jax.evaluation.statistics import Moments


def moments(mean, covariance):
    return Moments(np.array(2), np.asarray(mean, float), np.asarray(covariance, float))


def turned(values, seed):
    """A covariance with these eigenvalues in a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=2 * (len(values),)))
    return basis * values @ basis.T


def test_one_dimension():
    """(m - n)² + (s - r)² of two normal distributions."""
    assert frechet(moments([1.0], [[4.0]]), moments([3.5], [[9.0]])) == pytest.approx(7.25)


@pytest.mark.parametrize("rank", [6, 3])
def test_a_common_basis(rank):
    """Covariances that commute: the sum of (√λ - √μ)²; also where they have no full rank."""
    a, b = np.random.default_rng(1).uniform(0.5, 2, (2, 6))
    a[rank:] = b[rank:] = 0
    gap = np.arange(6) / 10
    found = frechet(moments(np.zeros(6), turned(a, 0)), moments(gap, turned(b, 0)))
    expected = gap @ gap + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert found == pytest.approx(expected, rel=1e-9)


def test_any_two_covariances():
    """tr √(ΣΣ') is the sum of the roots of the eigenvalues of the product."""
    a, b = turned(np.arange(1.0, 6), 2), turned(np.arange(2.0, 7), 3)
    roots = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    found = frechet(moments(np.zeros(5), a), moments(np.zeros(5), b))
    assert found == pytest.approx(np.trace(a) + np.trace(b) - 2 * roots, rel=1e-10)
    assert frechet(moments(np.zeros(5), a), moments(np.zeros(5), a)) == pytest.approx(0, abs=1e-12)
