"""Every row of METRICS, by the same laws."""

import numpy as np
import pytest

from ddpm_jax.evaluation.metrics import METRICS, Real, Sets, applicable, sets

CLASSES = 3


def labelled_points(seed, n):
    """Three far clouds in the plane: what every metric of the table applies to."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    corners = np.array([[-0.8, -0.8], [0.8, -0.8], [0.0, 0.8]])
    return (corners[labels] + 0.05 * rng.normal(size=(n, 2))).astype(np.float32), labels


REAL, REAL_LABELS = labelled_points(0, 60)
FACTS = Real((2,), len(REAL), REAL_LABELS, CLASSES)
# What each metric says of the real examples themselves; a new row needs one here.
ITSELF = {
    "accuracy": {"accuracy": 1.0},
    "coverage": {"precision": 1.0, "recall": 1.0, "coverage": 1.0},
    "sliced_wasserstein": {"sliced_wasserstein": 0.0},
}
every_metric = pytest.mark.parametrize(
    ("name", "metric"), [pytest.param(*row, id=row[0]) for row in METRICS.items()]
)


@every_metric
def test_real_against_itself(name, metric):
    scores = metric.score(Sets(REAL, REAL_LABELS, REAL.copy(), REAL_LABELS))
    assert ITSELF[name].items() <= scores.items()


@every_metric
def test_what_lies_elsewhere_is_judged_worse(name, metric):
    scores = metric.score(Sets(REAL, REAL_LABELS, REAL + 3, REAL_LABELS))
    for key, best in ITSELF[name].items():
        assert abs(scores[key] - best) > 0.1, key


@every_metric
def test_order_does_not_matter(name, metric):
    samples, labels = labelled_points(2, 45)
    samples = samples + np.float32(0.1)
    rng = np.random.default_rng(3)
    p, q = rng.permutation(len(REAL)), rng.permutation(len(samples))
    scores = metric.score(Sets(REAL, REAL_LABELS, samples, labels))
    shuffled = metric.score(Sets(REAL[p], REAL_LABELS[p], samples[q], labels[q]))
    assert shuffled == pytest.approx(scores, rel=1e-9)


@every_metric
def test_what_it_wants_can_be_scored(name, metric):
    wanted = metric.wanted(FACTS)
    assert wanted.labels is None or wanted.labels.shape == (wanted.size,)
    samples, _ = labelled_points(4, wanted.size)
    scores = metric.score(Sets(REAL, REAL_LABELS, samples, wanted.labels))
    assert scores
    assert all(type(value) is float and np.isfinite(value) for value in scores.values())


def test_what_each_wants():
    accuracy, coverage = METRICS["accuracy"].wanted(FACTS), METRICS["coverage"].wanted(FACTS)
    assert accuracy.labels is not None
    np.testing.assert_array_equal(np.bincount(accuracy.labels), [50] * CLASSES)
    np.testing.assert_array_equal(coverage.labels, REAL_LABELS)
    assert METRICS["coverage"].wanted(FACTS._replace(classes=0)).labels is None
    assert METRICS["sliced_wasserstein"].wanted(FACTS) == (len(REAL), None)


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        (FACTS, {"accuracy", "coverage", "sliced_wasserstein"}),
        (FACTS._replace(labels=None), {"coverage", "sliced_wasserstein"}),
        (FACTS._replace(classes=0), {"coverage", "sliced_wasserstein"}),
        (FACTS._replace(labels=np.zeros(60, int)), {"coverage", "sliced_wasserstein"}),
        (FACTS._replace(shape=(8, 8, 1)), {"accuracy", "coverage"}),
        (Real((8, 8, 1), 5, None, 0), set()),
    ],
)
def test_what_applies(facts, names):
    assert set(applicable(facts)) == names
    assert all(METRICS[name].obstacle(facts) for name in METRICS.keys() - names)


def test_a_large_real_set_is_thinned_evenly_and_alike(monkeypatch):
    monkeypatch.setattr(sets, "LIMIT", 20)
    wanted = METRICS["coverage"].wanted(FACTS)
    assert wanted.size == 20
    np.testing.assert_array_equal(wanted.labels, REAL_LABELS[::3])
    # Samples that are just the thinned real set cover all of it.
    scores = METRICS["coverage"].score(Sets(REAL, REAL_LABELS, REAL[::3], wanted.labels))
    assert scores["coverage"] == 1
    assert scores["density"] == pytest.approx(6 / 5)  # itself and its 5 neighbours
