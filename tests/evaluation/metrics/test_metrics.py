"""Every row of METRICS, by the same laws."""

from typing import Any

import numpy as np
import pytest

from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features import FEATURES, Features
from ddpm_jax.evaluation.metrics import METRICS, Metric
from ddpm_jax.evaluation.metrics.metric import subset
from ddpm_jax.evaluation.statistics import Moments

CLASSES = 3


def labelled_points(seed, n):
    """Three far clouds in the plane: every metric of the table applies to them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    corners = np.array([[-0.8, -0.8], [0.8, -0.8], [0.0, 0.8]])
    return (corners[labels] + 0.05 * rng.normal(size=(n, 2))).astype(np.float32), labels


def score(metric, real, samples, *, size=1000):
    """The metric of two pairs (points, labels), fed in batches of a size; logits are nearness."""
    states = []
    for points, labels in (real, samples):
        corners = np.array([[-0.8, -0.8], [0.8, -0.8], [0.0, 0.8]])
        logits = -((points[:, None] - corners) ** 2).sum(axis=2).astype(np.float32)
        features, state = Features(points, logits), metric.init()
        for start in range(0, len(points), size):
            rows = np.arange(start, min(start + size, len(points)))
            state = metric.update(state, features.take(rows), labels[rows])
        states.append(state)
    return metric.result(*states)


REAL = labelled_points(0, 60)
NEAR = (REAL[0] + np.float32(0.1), REAL[1])
FAR = (REAL[0][:, ::-1] + np.float32(3), REAL[1])
# The features that make the most metrics apply.
FACTS = Facts((2,), (2,), 60, 60, CLASSES, CLASSES, "classifier")
# The scores of the real examples against themselves, and how far off another set's must be.
ITSELF: dict[str, dict[str, float]] = {
    "frechet_distance": {"frechet_distance": 0.0},
    "kernel_distance": {},
    "precision_recall": {"precision": 1.0, "recall": 1.0},
    "coverage": {"coverage": 1.0},
    "agreement": {"agreement": 1.0},
    "accuracy": {"accuracy": 1.0},
    "sliced_wasserstein": {"sliced_wasserstein": 0.0},
}
ROWS = {name: made for name, row in METRICS.items() if isinstance(made := row(), Metric)}
# A metric that does not apply to points has its own tests.
OF_POINTS = {name: row for name, row in ROWS.items() if row.obstacle(FACTS) is None}
every_metric = pytest.mark.parametrize(
    ("name", "metric"), [pytest.param(*row, id=row[0]) for row in OF_POINTS.items()]
)


def test_the_table_is_tested():
    assert OF_POINTS.keys() >= ITSELF.keys()


@pytest.mark.parametrize("name", ITSELF)
def test_real_against_itself(name):
    scores = score(ROWS[name], REAL, (REAL[0].copy(), REAL[1]))
    for key, best in ITSELF[name].items():
        assert scores[key] == pytest.approx(best, abs=1e-7), key


@pytest.mark.parametrize("name", ITSELF)
def test_samples_elsewhere_score_worse(name):
    scores = score(ROWS[name], REAL, FAR)
    for key, best in ITSELF[name].items():
        assert abs(scores[key] - best) > 0.1, key


@every_metric
def test_better_is_where_the_real_examples_are(name, metric):
    """Samples that are a little off lie between the real ones and those that are far off."""
    real, far = (score(metric, REAL, each) for each in (REAL, FAR))
    assert metric.better.keys() <= real.keys()
    for key, direction in metric.better.items():
        assert direction in ("lower", "higher")
        assert (real[key] < far[key]) == (direction == "lower"), key


@every_metric
@pytest.mark.parametrize("size", [1, 7])
def test_batches_do_not_matter(name, metric, size):
    whole = score(metric, REAL, NEAR)
    assert score(metric, REAL, NEAR, size=size) == pytest.approx(whole, rel=1e-6, abs=1e-9)


@every_metric
def test_every_score_is_a_finite_float(name, metric):
    scores = score(metric, REAL, NEAR)
    assert scores
    assert all(type(value) is float and np.isfinite(value) for value in scores.values())


@every_metric
def test_a_state_is_a_tuple_of_arrays_by_name(name, metric):
    """So that it can be kept in a file."""
    state: Any = metric.update(metric.init(), Features(*2 * [REAL[0]]), REAL[1])
    for value in state._asdict().values():
        parts = value if type(value) is tuple else [value]
        assert all(isinstance(each, np.ndarray) for each in parts)


@every_metric
def test_features_and_moments_are_what_the_contract_says(name, metric):
    assert metric.features is None or metric.features in FEATURES
    if metric.moments is not None:
        known = Moments(np.array(2), np.zeros(2), np.eye(2))
        assert type(metric.moments(known)) is type(metric.init())


@pytest.mark.parametrize(
    ("facts", "lacking"),
    [
        (FACTS, set()),
        (FACTS._replace(features="pixels"), {"agreement"}),
        (FACTS._replace(real_classes=0), {"accuracy", "agreement"}),
        (FACTS._replace(sample_classes=1), {"accuracy", "agreement"}),
        (FACTS._replace(shape=(8, 8, 1)), {"sliced_wasserstein"}),
        (FACTS._replace(num_samples=5), {"coverage"}),
        (FACTS._replace(num_real=3), {"coverage", "precision_recall"}),
        (
            FACTS._replace(num_samples=1),
            {"coverage", "precision_recall", "frechet_distance", "kernel_distance"},
        ),
    ],
)
def test_which_apply(facts, lacking):
    assert {name for name in ITSELF if ROWS[name].obstacle(facts) is not None} == lacking


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("coverage", {"k": 0}),
        ("precision_recall", {"k": 0}),
        ("kernel_distance", {"subsets": 0}),
        ("kernel_distance", {"subset_size": 1}),
        ("sliced_wasserstein", {"directions": 0}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*: it must be at least"):
        METRICS[name](**options)


def test_a_part_of_a_large_set_is_a_fair_draw():
    """Not every n-th one: classes that take turns would be lost."""
    chosen = subset(2_000, 1_000)
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, subset(2_000, 1_000))
    counts = np.bincount(chosen % 10, minlength=10)
    assert counts.sum() == 1_000
    # Five standard deviations of a draw without replacement.
    assert abs(counts - 100).max() < 5 * np.sqrt(100 * 0.9 * 0.5)
    np.testing.assert_array_equal(subset(5, 20), np.arange(5))
    np.testing.assert_array_equal(subset(5, None), np.arange(5))
