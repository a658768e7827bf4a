import dataclasses
import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from ddpm_jax.cli.flags import split
from ddpm_jax.config import Config, DigitsData, MlpConfig, PointsData, SampleConfig
from ddpm_jax.data import cache, open_source
from ddpm_jax.data.source import ArraySource, StreamSource
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import caching, choosing, sets
from ddpm_jax.evaluation.evaluate import Evaluation, _in_classes_of, evaluate
from ddpm_jax.evaluation.features import FEATURES, Extractor, FeatureExtractor, Features
from ddpm_jax.evaluation.metrics import METRICS, Metric
from ddpm_jax.evaluation.metrics.metric import subset
from ddpm_jax.evaluation.sets import ExampleSet, Statistics
from ddpm_jax.evaluation.statistics import Moments, add_moments, no_moments
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.tables import Choice
from tests.tiny import TINY, changed

TABLE = PointsData(size=50)
FRESH = dataclasses.replace(TABLE, table=1)
MOONS = PointsData(size=60, shape="moons")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("DDPM_JAX_CACHE", "")


class DrawingRun(Run):
    """A run whose sample i is `draw(indices, labels)`; it keeps what it was asked for."""

    def __init__(self, folder, config, draw, class_names=()):
        classes = config.model.num_classes
        self.experiment: Any = SimpleNamespace(
            config=config,
            num_classes=classes,
            class_names=class_names,
            schedule=SimpleNamespace(T=config.diffusion.timesteps),
        )
        self.folder, self.step, self.name, self.params = folder, 7, "ema", {"w": np.ones(3)}
        self.draw, self.calls = draw, []

    def prepare(self, **settings: Any) -> str:
        if settings.get("steps", 0) > 1_000:
            raise UserError("sample.steps is more than T")
        return "a line"

    def sample(self, num=None, *, first=0, seed=0, labels=None, progress: Any = None, **settings):
        assert num is not None
        self.calls.append((first, num, seed, None if labels is None else np.array(labels)))
        if progress is not None:
            progress(10, 10)
        drawn = np.asarray(self.draw(np.arange(first, first + num), labels), np.float32)
        return Samples(drawn, labels, None, None, self.class_names)


@pytest.fixture
def run_that_draws(tmp_path):
    """Makes a run whose sample i is example i of some data."""

    def make(data, *, trained_on=TABLE, num_classes=0, batch_size=256, names=()):
        config = Config(
            data=trained_on,
            model=MlpConfig(num_classes=num_classes),
            sample=SampleConfig(clipping="none", batch_size=batch_size),
        )
        source = open_source(data)

        def draw(indices, labels):
            return source.gather(indices % len(source)).examples

        return DrawingRun(tmp_path, config, draw, names)

    return make


@pytest.mark.parametrize("drawn", [TABLE, FRESH])
@pytest.mark.parametrize("judged_by", [None, TABLE, FRESH])
def test_samples_are_judged_by_the_runs_data_or_by_others(drawn, judged_by, run_that_draws):
    found = evaluate(run_that_draws(drawn), ["sliced_wasserstein"], reference=judged_by)
    same = drawn == (judged_by or TABLE)
    assert (found["sliced_wasserstein"] == 0) == same


def test_examples_of_another_shape_are_refused(run_that_draws):
    with pytest.raises(UserError, match="are pictures of 8×8×1, and the samples are points; give"):
        evaluate(run_that_draws(TABLE), reference=DigitsData())
    small = ExampleSet(ArraySource(np.zeros((9, 4, 4, 1), np.float32), None), {})
    with pytest.raises(UserError, match=r"pixels: the samples are \(4, 4, 1\), and the real examp"):
        evaluate(small, reference=DigitsData())


def test_names_that_do_not_exist_or_apply_are_refused(run_that_draws):
    run = run_that_draws(TABLE)
    with pytest.raises(UserError, match=r"acuracy.*must be one of accuracy"):
        evaluate(run, ["acuracy"])
    with pytest.raises(UserError, match="accuracy does not apply: it needs labelled data"):
        evaluate(run, ["accuracy"])
    with pytest.raises(UserError, match=r"metrics\.k is 0: it must be at least 1"):
        evaluate(run, [Choice("coverage", k=0)])
    with pytest.raises(UserError, match=r"features is 'pixel'.*one of .*pixels"):
        evaluate(run, features="pixel")
    with pytest.raises(UserError, match="agreement does not apply: it needs the features"):
        evaluate(run, ["agreement"])
    stored = ExampleSet(open_source(TABLE), {})
    with pytest.raises(UserError, match="there is no reference; name real examples"):
        evaluate(stored)
    few = ExampleSet(ArraySource(np.zeros((1, 3), np.float32)), {})
    with pytest.raises(UserError, match=r"no metric applies.*it needs more than 1 real"):
        evaluate(few, reference=few)


def test_all_metrics_share_one_draw_with_the_labels_of_the_data(run_that_draws):
    run = run_that_draws(MOONS, trained_on=MOONS, num_classes=2, batch_size=32)
    told: dict[str, list] = {}

    def progress(title):
        return lambda done, total: told.setdefault(title, []).append((done, total))

    names = ["accuracy", "coverage", "sliced_wasserstein"]
    found = evaluate(run, names, progress=progress)
    assert set(names) <= found.values.keys()
    assert [call[:2] for call in run.calls] == [(0, 30), (30, 30)]
    labels = np.concatenate([call[3] for call in run.calls])
    np.testing.assert_array_equal(labels, open_source(MOONS).gather(np.arange(60)).labels)
    assert told["sampling"] == [(10, 20), (20, 20)]
    assert told["reading the data"][-1] == told["computing features"][-1] == (60, 60)
    assert list(run.folder.iterdir()) == []  # The samples are gone.


def test_labels_are_spread_over_any_number_of_samples(run_that_draws):
    run = run_that_draws(MOONS, trained_on=MOONS, num_classes=2)
    own = np.array(open_source(MOONS).gather(np.arange(60)).labels)
    for num, expected in ((30, own[subset(60, 30)]), (120, np.repeat(own, 2))):
        evaluate(run, ["coverage"], num=num)
        np.testing.assert_array_equal(run.calls[-1][3], expected)
    # Real examples without labels: the classes take turns.
    found = evaluate(run, ["coverage"], reference=TABLE, num=7)
    assert found.described["samples"]["labels"] == [4, 3]
    np.testing.assert_array_equal(run.calls[-1][3], [0, 1, 0, 1, 0, 1, 0])


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"num": 0}, "number of samples is 0"),
        ({"num": 2**33}, "number of samples is 8589934592"),
        ({"num": 2**32}, "the labels of 4,294,967,296 samples need 64.0 GiB"),
        ({"seed": -1}, "seed is -1"),
        ({"settings": {"steps": 9_999}}, "steps is more than T"),
    ],
)
def test_what_cannot_be_drawn_is_told_before_anything_is_written(asked, match, run_that_draws):
    run = run_that_draws(FRESH)
    with pytest.raises(UserError, match=match):
        evaluate(run, ["coverage"], **asked)
    assert run.calls == list(run.folder.iterdir()) == []


def test_kept_states_count_labels_as_the_samples_do(tmp_path, monkeypatch):
    """The same data judge samples whose classes have the one order, and then the other."""
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    moons: Any = open_source(MOONS)
    whole = moons.gather(np.arange(60))
    for names in (("upper", "lower"), ("lower", "upper")):
        labels = np.array([names.index(moons.class_names[label]) for label in whole.labels])
        samples = ExampleSet(ArraySource(np.asarray(whole.examples), labels, names), {})
        assert evaluate(samples, ["accuracy"], reference=MOONS)["accuracy"] > 0.9


def test_labels_of_the_data_count_in_the_runs_classes(run_that_draws):
    """The data have their classes in another order today, or are others."""
    own = np.array(open_source(MOONS).gather(np.arange(60)).labels)
    for names, expected in ((("upper", "lower"), own), (("lower", "upper"), 1 - own)):
        run = run_that_draws(MOONS, trained_on=MOONS, num_classes=2, names=names)
        evaluate(run, ["coverage"])
        np.testing.assert_array_equal(run.calls[-1][3], expected)
    with pytest.raises(UserError, match="a class outer, and the run was trained on lower, upper"):
        evaluate(run, reference=dataclasses.replace(MOONS, shape="circles"))


class Pairs(NamedTuple):
    """Everything a metric was given."""

    places: tuple[np.ndarray, ...] = ()
    labels: tuple[np.ndarray, ...] = ()


def test_labels_without_names_count_as_the_references_do():
    examples, labels = np.zeros((6, 2), np.float32), np.arange(6) % 3
    named = ExampleSet(ArraySource(examples, labels, ("cat", "dog", "eel")), {})
    numbered = ExampleSet(ArraySource(examples, labels, ("0", "1", "2", "3")), {})
    for count, reference in ((2, named), (3, named), (3, numbered)):
        names = tuple(map(str, range(count)))
        samples = ExampleSet(ArraySource(examples, labels % count, names), {})
        assert _in_classes_of(samples, reference) is reference
    fewer = ExampleSet(ArraySource(examples, labels, ("dog", "cat", "fox")), {})
    with pytest.raises(UserError, match="the data has a class eel"):
        _in_classes_of(fewer, named)


def test_features_and_labels_of_a_batch_belong_together(monkeypatch, tmp_path):
    """One metric sees all examples; the other one, of the same pass, some of them."""

    def add(state, features, labels):
        return Pairs((*state.places, features.vectors[:, 0]), (*state.labels, labels))

    seen: dict[Any, Any] = {}

    def pairs(most):
        def result(real, samples):
            seen[most] = [np.concatenate(each) for each in (*real, *samples)]
            return {f"of {most}": 0.0}

        return lambda: Metric(lambda facts: None, Pairs, add, result, {}, most=most)

    config = Config(
        data=MOONS,
        model=MlpConfig(num_classes=2),
        sample=SampleConfig(clipping="none", batch_size=4),
    )
    run = DrawingRun(tmp_path, config, lambda indices, labels: np.stack([indices, labels], 1))
    monkeypatch.setattr(sets, "_NUMBERS_AT_ONCE", 2 * 7)
    monkeypatch.setitem(METRICS, "all", pairs(None))
    monkeypatch.setitem(METRICS, "some", pairs(20))
    assert evaluate(run, ["all", "some"]).values.keys() == {"of None", "of 20"}
    truth: Any = open_source(MOONS).gather(np.arange(60))
    for most, rows in ((None, np.arange(60)), (20, subset(60, 20))):
        x, labels, indices, asked = seen[most]
        np.testing.assert_array_equal(x, np.asarray(truth.examples)[rows, 0])
        np.testing.assert_array_equal(labels, np.asarray(truth.labels)[rows])
        np.testing.assert_array_equal(indices, np.arange(60)[rows])
        np.testing.assert_array_equal(asked, np.asarray(truth.labels)[rows])


@pytest.mark.parametrize("num_classes", [0, 2])
def test_every_sample_of_the_seed_is_drawn_once(num_classes, run_that_draws):
    """Also beyond a batch: none is left out, and none counts twice."""
    run = run_that_draws(MOONS, trained_on=MOONS, num_classes=num_classes, batch_size=7)
    found = evaluate(run, ["coverage"], seed=5)
    assert [call[:3] for call in run.calls] == [(first, 7, 5) for first in range(0, 60, 7)]
    # They are the real examples themselves.
    assert found["coverage"] == 1
    assert found.described["samples"]["seed"] == 5


def test_a_killed_evaluation_goes_on_where_it_was(run_that_draws, monkeypatch):
    run = run_that_draws(FRESH, batch_size=20)
    assert sets.plan_draw(run, None, 50, 0, {}).settings == {"batch_size": 17}
    whole = evaluate(run, ["frechet_distance"])
    plain, run.calls = run.sample, []

    def dies(*words, **options):
        if len(run.calls) == 2:
            raise KeyboardInterrupt
        return plain(*words, **options)

    monkeypatch.setattr(run, "sample", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, ["frechet_distance"])
    monkeypatch.setattr(run, "sample", plain)
    assert evaluate(run, ["frechet_distance"]) == whole
    assert [call[0] for call in run.calls] == [0, 17, 34]


def test_stored_samples_score_as_drawn_ones(run_that_draws):
    drawn = evaluate(run_that_draws(FRESH))
    stored = evaluate(ExampleSet(open_source(FRESH), {"from": "a file"}), reference=TABLE)
    assert stored.values == drawn.values
    assert stored.described["samples"] == {"from": "a file"}


def test_the_data_are_compared_on_the_scale_of_the_samples(tmp_path):
    """Digits whose samples are the digits themselves, as a network gives them: in [-1, 1]."""
    config = changed(TINY, model={"num_classes": 0}, train={"label_dropout": 0.0})
    digits: Any = open_source(DigitsData())
    run = DrawingRun(
        tmp_path, config, lambda at, labels: digits.examples[at % 1797].astype(float) / 127.5 - 1
    )
    found = evaluate(run, ["coverage", "precision_recall"], features="pixels")
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


def test_data_that_are_decoded_on_demand_give_the_same_values(monkeypatch):
    """Their labels are read along with them, a part at a time and in order."""
    digits: Any = open_source(DigitsData())
    held = ArraySource(digits.examples[:90], digits.labels[:90], digits.class_names)
    samples = ExampleSet(
        ArraySource(digits.examples[90:190], digits.labels[90:190], digits.class_names), {}
    )

    def read(indices):
        return [(held.examples[index], int(digits.labels[index])) for index in indices]

    streamed = StreamSource(read, length=90, shape=held.shape, class_names=held.class_names)
    monkeypatch.setattr(sets, "_NUMBERS_AT_ONCE", 64 * 7)
    names, found = ["accuracy", "coverage"], []
    for source in (held, streamed):
        found.append(
            evaluate(samples, names, reference=ExampleSet(source, {}), features="pixels").values
        )
        np.testing.assert_array_equal(sets.labels_of(source), digits.labels[:90])
    assert found[0] == found[1]
    assert found[0]["accuracy"] > 0.5


@pytest.mark.parametrize("at_once", [2, 40, 10**6])
def test_batches_of_the_data_do_not_matter(at_once, monkeypatch):
    samples = ExampleSet(open_source(FRESH), {})
    whole = evaluate(samples, reference=TABLE)
    monkeypatch.setattr(sets, "_NUMBERS_AT_ONCE", at_once)
    assert evaluate(samples, reference=TABLE).values == pytest.approx(whole.values, rel=1e-9)


def test_the_data_are_never_held_whole_as_floats(monkeypatch):
    monkeypatch.setattr(sets, "_NUMBERS_AT_ONCE", 64 * 100)
    sizes: list[int] = []
    digits: Any = open_source(DigitsData())

    class Watched(ArraySource):
        def gather(self, indices):
            sizes.append(len(indices))
            return super().gather(indices)

    source = Watched(digits.examples, digits.labels, digits.class_names)
    evaluate(ExampleSet(source, {}), ["coverage"], reference=DigitsData(), features="pixels")
    assert max(sizes) == 100
    assert sum(sizes) == 1797


def test_what_is_known_of_the_data_is_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    samples, read = ExampleSet(open_source(FRESH), {}), []

    def progress(title):
        return lambda done, total: read.append(title)

    judged = functools.partial(evaluate, samples, reference=TABLE, progress=progress)
    first = judged()
    assert "reading the data" in read
    read.clear()
    assert judged() == first
    assert "reading the data" not in read
    # Other data, options or code are another state.
    other = evaluate(samples, ["coverage"], reference=FRESH)
    assert other["coverage"] == 1
    assert judged([Choice("coverage", k=9)])["coverage_if_equal"] != first["coverage_if_equal"]
    read.clear()
    monkeypatch.setattr(caching, "_code", lambda: "another version")
    assert judged() == first
    assert "reading the data" in read
    # A damaged file is no state.
    for path in cache.cache_folder().glob("*.npz"):  # type: ignore
        path.write_bytes(path.read_bytes()[:-40])
    assert judged() == first


def test_statistics_stand_for_real_examples():
    samples, real = (
        open_source(FRESH),
        np.asarray(open_source(TABLE).gather(np.arange(50)).examples),
    )
    known = Moments(np.array(2), real.mean(axis=0, dtype=float), np.cov(real.T.astype(float)))
    by_data = evaluate(ExampleSet(samples, {}), ["frechet_distance"], reference=TABLE)
    reference = Statistics(known, {"from": "a file"})
    found = evaluate(ExampleSet(samples, {}), reference=reference)
    assert found.values == pytest.approx(by_data.values, rel=1e-9)
    with pytest.raises(UserError, match="coverage does not apply: it needs real examples"):
        evaluate(ExampleSet(samples, {}), ["coverage"], reference=reference)
    other = Statistics(Moments(np.array(2), np.zeros(3), np.eye(3)), {})
    with pytest.raises(UserError, match="statistics have 3 dimensions, and these features 2"):
        evaluate(ExampleSet(samples, {}), reference=other)


def test_a_metric_and_features_from_outside_are_one_row_each(monkeypatch, run_that_draws):
    """A metric of sums alone, over features of its own, is found with no second edit."""

    def squares(*, power: int = 2):
        def extract(examples):
            return Features(np.concatenate([examples, examples**power], axis=1))

        loaded = Extractor(extract, {"kind": "powers"})
        return FeatureExtractor(lambda facts: None, lambda context: loaded)

    def moments(*, row: int = 0):
        def compare(real, samples):
            return {
                "mean": float(real.mean[row]),
                "covariance": float(real.covariance[0, 3]),
                "gap": float(np.abs(samples.mean - real.mean).max()),
            }

        return Metric(
            lambda facts: None, no_moments, add_moments, compare, {"gap": "lower"}, "squares"
        )

    monkeypatch.setitem(FEATURES, "squares", squares)
    monkeypatch.setitem(METRICS, "moments", moments)
    monkeypatch.setattr(sets, "_NUMBERS_AT_ONCE", 14)  # seven points at once
    real = np.asarray(open_source(TABLE).gather(np.arange(50)).examples, float)
    samples = np.asarray(open_source(FRESH).gather(np.arange(50)).examples, float)

    def powers(x, power=2):
        return np.concatenate([x, x**power], axis=1)

    run = run_that_draws(FRESH, batch_size=8)
    for names, features in ((["moments"], None), (None, "squares")):
        found = evaluate(run, names, features=features)
        assert found["mean"] == pytest.approx(real.mean(axis=0)[0], rel=1e-6)
        assert found["covariance"] == pytest.approx(np.cov(powers(real).T)[0, 3], rel=1e-5)
        gap = np.abs(powers(samples).mean(axis=0) - powers(real).mean(axis=0)).max()
        assert found["gap"] == pytest.approx(gap, rel=1e-5)
        assert found.described["features"]["squares"] == {"power": 2, "kind": "powers"}
    # Features that were not chosen bring no metrics of their own.
    assert "gap" not in evaluate(run).values
    # An option of either is taken.
    cubes = Choice("squares", power=3)
    found = evaluate(run, [Choice("moments", row=1), "frechet_distance"], features=cubes)
    assert found["mean"] == pytest.approx(real.mean(axis=0)[1], rel=1e-6)
    assert found["covariance"] == pytest.approx(np.cov(powers(real, 3).T)[0, 3], rel=1e-5)
    assert found.described["metrics"]["moments"] == {"row": 1}


def test_an_evaluation_says_what_made_it(run_that_draws):
    run = run_that_draws(FRESH)
    found = evaluate(run, ["coverage"], num=30, seed=3, settings={"steps": 7, "sampler": "ddim"})
    made = found.as_dict()
    assert made["samples"].items() >= {"step": 7, "params": "ema", "seed": 3, "num": 30}.items()
    assert made["samples"]["steps"] == 7
    assert made["samples"]["sampler"]["name"] == "ddim"
    assert made["reference"]["kind"] == "points"
    assert made["reference"]["content"]
    assert made["features"] == {"pixels": {}}
    assert made["metrics"] == {"coverage": {"k": 5}}
    assert made["versions"]["jax"]
    assert repr(found).startswith("Evaluation(density ")
    assert isinstance(found, Evaluation)


def test_what_must_be_said_stands_beside_the_values(monkeypatch):
    plain = METRICS["frechet_distance"]()

    def wary():
        return plain._replace(caution=lambda facts, state: f"of {facts.num_samples} only")

    monkeypatch.setitem(METRICS, "wary", wary)
    samples = ExampleSet(open_source(FRESH), {})
    assert evaluate(samples, ["wary"], reference=TABLE).notes == ("of 50 only",)
    assert evaluate(samples, ["frechet_distance"], reference=TABLE).notes == ()
    two = ExampleSet(ArraySource(np.zeros((2, 2), np.float32), None), {})
    (note,) = evaluate(two, ["frechet_distance"], reference=TABLE).notes
    assert note.startswith("frechet_distance is of 2 samples in 2 dimensions: so few make it")


def test_features_that_cannot_be_loaded_are_told_before_drawing(monkeypatch, run_that_draws):
    def fails(context):
        raise UserError("the weights are damaged")

    monkeypatch.setitem(FEATURES, "pixels", lambda: FeatureExtractor(lambda facts: None, fails))
    run = run_that_draws(FRESH)
    with pytest.raises(UserError, match="the weights are damaged"):
        evaluate(run, ["coverage"])
    assert run.calls == []


def test_features_learn_from_the_training_data_where_these_are_given(monkeypatch):
    seen: list[Any] = []

    def load(context):
        seen.append(context.source)
        return Extractor(lambda x: Features(x), {})

    def obstacle(facts):
        seen.append(facts.num_training)

    monkeypatch.setitem(FEATURES, "pixels", lambda: FeatureExtractor(obstacle, load))
    samples, real = ExampleSet(open_source(FRESH), {}), ExampleSet(open_source(TABLE), {})
    evaluate(samples, ["coverage"], reference=real, features="pixels")
    assert seen == [None, real.source]
    seen.clear()
    training = open_source(MOONS)
    evaluate(samples, ["coverage"], reference=real, features="pixels", training=training)
    assert seen == [60, training]


def test_no_features_apply(monkeypatch):
    refuses = FeatureExtractor(lambda facts: "never", lambda context: Extractor(Features, {}))
    for name in list(FEATURES):
        monkeypatch.setitem(FEATURES, name, lambda: refuses)
    facts: Any = None
    with pytest.raises(UserError, match=r"no features apply .*pixels: never"):
        choosing.choose_features(None, facts)
    with pytest.raises(UserError, match="the features pixels do not apply: never"):
        choosing.choose_features("pixels", facts)


def test_options_of_one_section_are_taken_with_their_values():
    words = ["--seed", "3", "--data.image_size", "8", "8", "--json", "--data.table=1", "--metrics"]
    taken, rest = split([*words, "coverage"], lambda name: name.startswith("data."))
    assert taken == ["--data.image_size", "8", "8", "--data.table=1"]
    assert rest == ["--seed", "3", "--json", "--metrics", "coverage"]
