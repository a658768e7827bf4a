"""Every row of METRICS, by the same laws."""

import numpy as np
import pytest

from ddpm_jax.evaluation.features import FEATURES
from ddpm_jax.evaluation.metrics import METRICS, RealData, applicable, obstacle
from ddpm_jax.evaluation.metrics import metric as contract

CLASSES = 3


def labelled_points(seed, n, labels=None):
    """Three far clouds in the plane: every metric of the table applies to them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES if labels is None else labels
    corners = np.array([[-0.8, -0.8], [0.8, -0.8], [0.0, 0.8]])
    return (corners[labels] + 0.05 * rng.normal(size=(n, 2))).astype(np.float32), labels


def score(metric, real, samples, *, size=1000):
    """The metric of two pairs (examples, labels), fed in batches of a size."""
    extract = FEATURES[metric.features].load()
    states = []
    for examples, labels in (real, samples):
        state = metric.init()
        for start in range(0, len(examples), size):
            rows = slice(start, start + size)
            some = None if labels is None else labels[rows]
            state = metric.update(state, extract(examples[rows]), some)
        states.append(state)
    return metric.result(*states)


REAL, REAL_LABELS = labelled_points(0, 60)
PAIR = (REAL, REAL_LABELS)
FACTS = RealData((2,), len(REAL), REAL_LABELS, CLASSES)
# The scores of the real examples against themselves. A row without an entry keeps the other laws.
ITSELF = {
    "accuracy": {"accuracy": 1.0},
    "coverage": {"precision": 1.0, "recall": 1.0, "coverage": 1.0},
    "sliced_wasserstein": {"sliced_wasserstein": 0.0},
}
# A metric that doesn't apply to points, such as one on the features of pictures, has its own tests.
OF_POINTS = {name: metric for name, metric in METRICS.items() if obstacle(metric, FACTS) is None}
every_metric = pytest.mark.parametrize(
    ("name", "metric"), [pytest.param(*row, id=row[0]) for row in OF_POINTS.items()]
)


def requested(metric):
    """What a metric asks for: two pairs, of real examples and of samples that are a little off."""
    request = metric.request(FACTS)
    samples, labels = labelled_points(2, request.num, request.labels)
    real = REAL[request.real], REAL_LABELS[request.real]
    return real, (samples + np.float32(0.1), labels)


def test_the_table_is_tested():
    assert OF_POINTS.keys() >= ITSELF.keys()


@pytest.mark.parametrize("name", ITSELF)
def test_real_against_itself(name):
    scores = score(METRICS[name], PAIR, (REAL.copy(), REAL_LABELS))
    assert ITSELF[name].items() <= scores.items()


@pytest.mark.parametrize("name", ITSELF)
def test_samples_elsewhere_score_worse(name):
    scores = score(METRICS[name], PAIR, (REAL + 3, REAL_LABELS))
    for key, best in ITSELF[name].items():
        assert abs(scores[key] - best) > 0.1, key


@every_metric
def test_order_does_not_matter(name, metric):
    real, samples = requested(metric)
    rng = np.random.default_rng(3)
    p, q = (rng.permutation(len(labels)) for _, labels in (real, samples))
    shuffled = score(metric, [each[p] for each in real], [each[q] for each in samples])
    assert shuffled == pytest.approx(score(metric, real, samples), rel=1e-6, abs=1e-9)


@every_metric
@pytest.mark.parametrize("size", [1, 7])
def test_batches_do_not_matter(name, metric, size):
    whole = score(metric, *requested(metric))
    assert score(metric, *requested(metric), size=size) == pytest.approx(whole, rel=1e-6, abs=1e-9)


@every_metric
def test_a_request_can_be_scored(name, metric):
    request = metric.request(FACTS)
    assert request.labels is not None
    assert request.labels.shape == (request.num,)
    assert set(request.real) <= set(range(len(REAL)))
    scores = score(metric, *requested(metric))
    assert scores
    assert all(type(value) is float and np.isfinite(value) for value in scores.values())


@every_metric
def test_a_network_without_labels_is_asked_for_none(name, metric):
    facts = FACTS._replace(num_classes=0)
    if obstacle(metric, facts) is None:
        assert metric.request(facts).labels is None


def test_the_request_of_each():
    requests = {name: METRICS[name].request(FACTS) for name in ITSELF}
    labels = np.repeat(np.arange(CLASSES), 50)
    np.testing.assert_array_equal(requests["accuracy"].labels, labels)
    np.testing.assert_array_equal(requests["coverage"].labels, REAL_LABELS)
    np.testing.assert_array_equal(requests["sliced_wasserstein"].labels, np.arange(60) % CLASSES)
    for request in requests.values():
        np.testing.assert_array_equal(request.real, np.arange(60))
    # Other data may have no labels though the network takes some: each class in turn.
    unlabelled = METRICS["coverage"].request(FACTS._replace(labels=None))
    np.testing.assert_array_equal(unlabelled.labels, np.arange(60) % CLASSES)


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        (FACTS, {"accuracy", "coverage", "sliced_wasserstein"}),
        (FACTS._replace(labels=None), {"coverage", "sliced_wasserstein"}),
        (FACTS._replace(num_classes=0), {"coverage", "sliced_wasserstein"}),
        (FACTS._replace(labels=np.zeros(60, int)), {"coverage", "sliced_wasserstein"}),
        (FACTS._replace(shape=(8, 8, 1)), {"accuracy", "coverage"}),
        (RealData((8, 8, 1), 5, None, 0), set()),
    ],
)
def test_which_apply(facts, names):
    assert set(applicable(facts)) & ITSELF.keys() == names
    assert all(obstacle(METRICS[name], facts) for name in ITSELF.keys() - names)


def test_a_large_real_set_is_thinned_evenly_and_alike(monkeypatch):
    monkeypatch.setattr(contract, "LIMIT", 20)
    request = METRICS["coverage"].request(FACTS)
    assert request.num == 20
    np.testing.assert_array_equal(request.real, np.arange(0, 60, 3))
    np.testing.assert_array_equal(request.labels, REAL_LABELS[::3])
    # Samples equal to the thinned real set cover all of it.
    real = (REAL[request.real], REAL_LABELS[request.real])
    scores = score(METRICS["coverage"], real, (REAL[::3], request.labels))
    assert scores["coverage"] == 1
    assert scores["density"] == pytest.approx(6 / 5)  # itself and its 5 neighbours
