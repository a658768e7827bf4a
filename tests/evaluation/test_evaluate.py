import dataclasses
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from ddpm_jax.cli.flags import split
from ddpm_jax.config import Config, DigitsData, MlpConfig, PointsData, SampleConfig
from ddpm_jax.data import open_source
from ddpm_jax.data.source import ArraySource, StreamSource
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import evaluate as module
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.features import FEATURES, FeatureExtractor
from ddpm_jax.evaluation.metrics import METRICS, Metric, Request
from tests.tiny import TINY, changed

TABLE = PointsData(size=50)
FRESH = dataclasses.replace(TABLE, table=1)
MOONS = PointsData(size=60, shape="moons")


def run_that_draws(data, *, trained_on=TABLE, num_classes=0, batch_size=256) -> Any:
    """A run whose sample i is example i of `data`; it keeps what it was asked for in `calls`."""
    calls: list[tuple[int, Any]] = []

    def sample(num, *, first=0, seed=0, labels=None, progress=lambda done, total: None):
        calls.append((first, labels))
        progress(10, 10)
        drawn = open_source(data).gather(np.arange(first, first + num) % data.size)
        asked = None if labels is None else np.array(labels)
        return SimpleNamespace(samples=np.asarray(drawn.examples), labels=asked)

    config = Config(
        data=trained_on,
        model=MlpConfig(num_classes=num_classes),
        sample=SampleConfig(clipping="none", batch_size=batch_size),
    )
    return SimpleNamespace(config=config, class_names=(), sample=sample, calls=calls)


@pytest.mark.parametrize("drawn", [TABLE, FRESH])
@pytest.mark.parametrize("judged_by", [None, TABLE, FRESH])
def test_samples_are_judged_by_the_runs_data_or_by_other_data(drawn, judged_by):
    values = evaluate(run_that_draws(drawn), ["sliced_wasserstein"], data=judged_by)
    same = drawn == (judged_by or TABLE)
    assert (values["sliced_wasserstein"] == 0) == same


def test_data_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"the examples are \(8, 8, 1\), and the run was trained"):
        evaluate(run_that_draws(TABLE), data=DigitsData())


def test_an_unknown_metric_and_one_that_does_not_apply_are_refused():
    with pytest.raises(UserError, match=r"no metric acuracy \(did you mean accuracy\?\)"):
        evaluate(run_that_draws(TABLE), ["acuracy"])
    with pytest.raises(UserError, match="accuracy does not apply: it needs labelled data"):
        evaluate(run_that_draws(TABLE), ["accuracy"])


def test_all_metrics_share_one_draw_and_each_gets_its_labels():
    run = run_that_draws(MOONS, trained_on=MOONS, num_classes=2, batch_size=32)
    told: dict[str, list] = {}

    def progress(title):
        return lambda done, total: told.setdefault(title, []).append((done, total))

    names = ["accuracy", "coverage", "sliced_wasserstein"]
    assert set(names) <= evaluate(run, names, progress=progress).keys()
    # Accuracy wants 50 of each class, more than the 30 there are: the others are content with that.
    assert [first for first, _ in run.calls] == [0, 32, 64, 96]
    labels = np.concatenate([labels for _, labels in run.calls])
    np.testing.assert_array_equal(np.bincount(labels[:100]), [50, 50])
    assert told["sampling"] == [(10, 40), (20, 40), (30, 40), (40, 40)]
    assert told["reading the data"][-1] == (60, 60)


def test_labels_of_the_data_count_in_the_runs_classes(monkeypatch):
    """The data have their classes in another order today, or are others."""
    seen = []

    def look(real):
        seen.append(real.labels)
        return "it only looks"

    monkeypatch.setitem(METRICS, "look", METRICS["coverage"]._replace(obstacle=look))
    run = run_that_draws(MOONS, trained_on=MOONS, num_classes=2)
    own = open_source(MOONS).gather(np.arange(60)).labels
    for names, expected in ((("upper", "lower"), own), (("lower", "upper"), 1 - np.array(own))):
        run.class_names = names
        with pytest.raises(UserError, match="it only looks"):
            evaluate(run, ["look"])
        np.testing.assert_array_equal(seen[-1], expected)
    with pytest.raises(UserError, match="a class outer, and the run was trained on lower, upper"):
        evaluate(run, data=dataclasses.replace(MOONS, shape="circles"))


def test_features_and_labels_of_a_batch_belong_together(monkeypatch):
    """One metric sees all samples; the other one, of the same draw, those of one class alone."""

    def add_pairs(state: list, features: np.ndarray, labels: Any) -> list:
        return [*state, *zip(features[:, 0], labels, strict=True)]

    def pairs(request):
        return Metric(
            obstacle=lambda real: None,
            request=lambda real: request,
            init=list,
            update=add_pairs,
            result=lambda real, samples: {str(request.num): [real, samples]},  # type: ignore
        )

    def sample(num, *, first=0, seed=0, labels: Any = None, progress=None):
        points = np.stack([labels, np.arange(first, first + num)], axis=1).astype(np.float32)
        return SimpleNamespace(samples=points, labels=np.array(labels))

    run = run_that_draws(MOONS, trained_on=MOONS, num_classes=2, batch_size=4)
    run.sample = sample
    both = np.array([0, 1, 1, 0, 1, 0], np.int32)
    monkeypatch.setitem(METRICS, "all", pairs(Request(np.arange(60), 6, both)))
    monkeypatch.setitem(METRICS, "some", pairs(Request(np.arange(1, 60, 2), 2, both[1:3])))
    values: dict[str, Any] = evaluate(run, ["all", "some"])
    truth: Any = open_source(MOONS).gather(np.arange(60))
    known = list(zip(np.asarray(truth.examples)[:, 0], np.asarray(truth.labels), strict=True))
    assert values["6"] == [known, [(label, label) for label in both]]
    assert values["2"] == [known[1::2], [(1, 1), (1, 1)]]


@pytest.mark.parametrize("num_classes", [0, 2])
def test_every_sample_of_the_seed_is_drawn_once(num_classes):
    """Also beyond a batch: none is left out, and none counts twice."""
    run = run_that_draws(MOONS, trained_on=MOONS, num_classes=num_classes, batch_size=7)
    plain, drawn = run.sample, []

    def sample(num, **options):
        drawn.append((options["first"], num, options["seed"]))
        return plain(num, **options)

    run.sample = sample
    evaluate(run, ["coverage"], seed=5)
    assert drawn == [(first, 7, 5) for first in range(0, 60, 7)]


def test_the_data_are_compared_on_the_scale_of_the_samples():
    """Digits whose samples are the digits themselves, as a network gives them: in [-1, 1]."""
    config = changed(TINY, model={"num_classes": 0}, train={"label_dropout": 0.0})
    digits: Any = open_source(DigitsData())

    def sample(num, *, first=0, **_):
        pixels = digits.examples[np.arange(first, first + num) % len(digits)]
        return SimpleNamespace(samples=pixels.astype(np.float32) / 127.5 - 1, labels=None)

    run: Any = SimpleNamespace(config=config, class_names=(), sample=sample)
    values = evaluate(run, ["coverage"])
    assert (values["precision"], values["recall"], values["coverage"]) == (1, 1, 1)


def test_data_that_are_decoded_on_demand_give_the_same_values(monkeypatch):
    """Their labels are read along with them, a part at a time and in order."""
    digits: Any = open_source(DigitsData())
    held: Any = ArraySource(digits.examples[:90], digits.labels[:90], digits.class_names)

    def read(indices):
        return [(held.examples[index], int(held.labels[index])) for index in indices]

    streamed = StreamSource(read, length=90, shape=held.shape, class_names=held.class_names)

    def sample(num, *, first=0, labels: Any = None, **_):
        of_class = [digits.examples[digits.labels == label] for label in range(10)]
        pixels = [of_class[label][i % 100] for i, label in enumerate(labels, first)]
        samples = np.array(pixels, np.float32) / 127.5 - 1
        return SimpleNamespace(samples=samples, labels=np.array(labels))

    run: Any = SimpleNamespace(config=TINY, class_names=held.class_names, sample=sample)
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", 64 * 7)
    values = []
    for source in (held, streamed):
        monkeypatch.setattr(module, "open_source", lambda data, source=source: source)
        values.append((evaluate(run), evaluate(run, ["coverage"])))
    assert values[0] == values[1]
    assert values[0][0]["accuracy"] > 0.5


@pytest.mark.parametrize("at_once", [2, 40, 10**6])
def test_batches_of_the_data_do_not_matter(at_once, monkeypatch):
    run = run_that_draws(FRESH)
    whole = evaluate(run)
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", at_once)
    assert evaluate(run) == pytest.approx(whole, rel=1e-9)


def test_the_data_are_never_held_whole_as_floats(monkeypatch):
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", 64 * 100)
    sizes = []
    plain = ArraySource.gather
    monkeypatch.setattr(
        ArraySource, "gather", lambda self, rows: (sizes.append(len(rows)), plain(self, rows))[1]
    )
    config = changed(
        TINY, model={"num_classes": 0}, train={"label_dropout": 0.0}, sample={"batch_size": 100}
    )
    rng = np.random.default_rng(0)

    def sample(num, **_):
        images = rng.uniform(-1, 1, (num, 8, 8, 1)).astype(np.float32)
        return SimpleNamespace(samples=images, labels=None)

    assert evaluate(SimpleNamespace(config=config, class_names=(), sample=sample), ["coverage"])  # type: ignore
    assert max(sizes) == 100
    assert sum(sizes) == 1797


class Moments(NamedTuple):
    """Number, mean and summed squared deviations of features, as a stream in float64."""

    size: int
    mean: Any
    scatter: Any


def add(state: Moments, features: np.ndarray, labels: Any) -> Moments:
    """Chan et al. 1983, Algorithms for computing the sample variance, equation 1.5."""
    size = state.size + len(features)
    mean = features.mean(axis=0)
    gap = mean - state.mean
    inner = (features - mean).T @ (features - mean)
    weight = state.size * len(features) / size
    return Moments(
        size,
        state.mean + gap * len(features) / size,
        state.scatter + inner + weight * np.outer(gap, gap),
    )


def test_a_metric_and_features_from_outside_are_one_row_each(monkeypatch):
    """A metric of sums alone, over features of its own, is found with no second edit."""

    def doubled(examples):
        return np.concatenate([examples, examples**2], axis=1, dtype=np.float64)

    def compare(real: Moments, samples: Moments):
        return {
            "mean": float(real.mean[0]),
            "covariance": float(real.scatter[0, 3] / (real.size - 1)),
            "gap": float(np.abs(samples.mean - real.mean).max()),
        }

    monkeypatch.setitem(FEATURES, "squares", FeatureExtractor(lambda shape: None, lambda: doubled))
    row = Metric(
        obstacle=lambda real: None,
        request=lambda real: Request(np.arange(real.size), 30, None),
        init=lambda: Moments(0, 0.0, 0.0),
        update=add,
        result=compare,
        features="squares",
    )
    monkeypatch.setitem(METRICS, "moments", row)
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", 14)  # seven points at once
    real = np.asarray(open_source(TABLE).gather(np.arange(50)).examples)
    samples = np.asarray(open_source(FRESH).gather(np.arange(30)).examples)
    expected = np.cov(doubled(real).T)
    for names in (["moments"], None):
        values = evaluate(run_that_draws(FRESH, batch_size=8), names)
        assert values["mean"] == pytest.approx(real.mean(axis=0, dtype=float)[0], rel=1e-12)
        assert values["covariance"] == pytest.approx(expected[0, 3], rel=1e-12)
        gap = np.abs(doubled(samples).mean(axis=0) - doubled(real).mean(axis=0)).max()
        assert values["gap"] == pytest.approx(gap, rel=1e-12)


def test_options_of_one_section_are_taken_with_their_values():
    words = ["--seed", "3", "--data.image_size", "8", "8", "--json", "--data.table=1", "--metrics"]
    taken, rest = split([*words, "coverage"], lambda name: name.startswith("data."))
    assert taken == ["--data.image_size", "8", "8", "--data.table=1"]
    assert rest == ["--seed", "3", "--json", "--metrics", "coverage"]
