"""The classifier learns the classes, is the same each time, and is trained once."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.choosing import choose_features
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features import FEATURES, FeatureContext

# The package has the row under the same name.
module = import_module("ddpm_jax.evaluation.features.classifier")

pytestmark = pytest.mark.usefixtures("one_device")

SHAPE = (6, 5, 3)
NAMES = ("dark", "light")
FACTS = Facts(SHAPE, SHAPE, 100, 50, 2, 0)


def pictures(n=120, seed=0):
    """Noise, whose left half is darker in the first class and lighter in the second."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n).astype(np.int32)
    levels = rng.integers(40, 216, size=(n, *SHAPE))
    levels[:, :, :2] += np.where(labels, 39, -39)[:, None, None, None]
    return ArraySource(levels.astype(np.uint8), labels, NAMES)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of its own for each test."""
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path))


@pytest.fixture
def trainings(monkeypatch):
    """Counts how often a classifier is trained; all are the first one's, with this accuracy."""
    taken = []

    def train(source, model):
        taken.append(source)
        return module.Trained(np.asarray(model.init()), np.float32(0.5).reshape(()))

    monkeypatch.setattr(module, "_train", train)
    return taken


def load(source: Any = None, report=lambda line: None):
    return FEATURES["classifier"]().load(FeatureContext(source or pictures(), report))


def test_it_learns_the_classes_and_is_the_same_each_time(monkeypatch):
    monkeypatch.setenv("DDPM_JAX_CACHE", "")
    lines = []
    first, second = load(report=lines.append), load(report=lines.append)
    assert first.described == second.described
    assert first.described["held_out_accuracy"] >= 0.9
    assert "it finds" in lines[-1]
    fresh = pictures(seed=1)
    examples = fresh.examples.astype(np.float32) / 127.5 - 1
    found: Any = first.extract(examples)
    again = second.extract(examples)
    assert found.vectors.shape == (120, 8)
    assert found.vectors.dtype == np.float32
    assert np.mean(found.logits.argmax(axis=1) == fresh.labels) > 0.9
    np.testing.assert_array_equal(found.vectors, again.vectors)
    np.testing.assert_array_equal(found.logits, again.logits)


def test_features_are_of_each_example_alone(trainings, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 16)
    extract = load().extract
    examples = pictures().examples[:37].astype(np.float32) / 127.5 - 1
    whole: Any = extract(examples)
    for rows in (slice(0, 1), slice(5, 30)):
        part: Any = extract(examples[rows])
        np.testing.assert_array_equal(part.vectors, whole.vectors[rows])
        np.testing.assert_array_equal(part.logits, whole.logits[rows])


def test_it_is_trained_once_for_the_same_data_and_settings(trainings, monkeypatch):
    lines = []
    first, again = load(report=lines.append), load(report=lines.append)
    assert (len(trainings), first.described) == (1, again.described)
    assert len(lines) == 2, "a classifier that was kept takes no time to speak of"
    load(pictures(seed=1))
    known = pictures()
    load(ArraySource(known.examples, known.labels, NAMES[::-1]))
    monkeypatch.setattr(module, "SETTINGS", module.SETTINGS._replace(shift=2))
    load()
    assert len(trainings) == 4


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_file_is_trained_again(damage, trainings, tmp_path):
    before = load()
    (path,) = tmp_path.glob("*.npz")
    damage(path)
    assert load().described == before.described
    assert len(trainings) == 2
    load()
    assert len(trainings) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it._replace(parameters=it.parameters[:-1]),
        lambda it: it._replace(parameters=it.parameters.astype(np.float64)),
        lambda it: it._replace(parameters=np.full_like(it.parameters, np.nan)),
        lambda it: it._replace(accuracy=np.float32(np.nan).reshape(())),
    ],
    ids=["short", "float64", "nan", "nan accuracy"],
)
def test_parameters_of_another_kind_are_trained_again(change, trainings, monkeypatch):
    plain = module._train
    monkeypatch.setattr(module, "_train", lambda *given: change(plain(*given)))
    load()
    monkeypatch.setattr(module, "_train", plain)
    load()
    assert len(trainings) == 2
    load()
    assert len(trainings) == 2


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (FACTS, None),
        (FACTS._replace(shape=(2,), sample_shape=(2,)), "it needs pictures"),
        (FACTS._replace(real_classes=1), "labels of at least two classes"),
        (FACTS._replace(real_classes=0), "labels of at least two classes"),
        (FACTS._replace(real_classes=6), "it needs 20 real examples a class"),
        (FACTS._replace(real_classes=6, num_training=120), None),
        (FACTS._replace(num_training=7), "it needs 20 real examples a class"),
        (FACTS._replace(sample_shape=(6, 5, 1)), r"the samples are \(6, 5, 1\)"),
    ],
)
def test_it_applies_to_labelled_pictures_of_one_shape(facts, reason):
    found = FEATURES["classifier"]().obstacle(facts)
    assert (found is None) == (reason is None)
    if reason is not None:
        with pytest.raises(UserError, match=reason):
            choose_features("classifier", facts)


def test_it_is_the_first_choice_where_it_applies():
    assert choose_features(None, FACTS).name == "classifier"
    assert choose_features(None, FACTS._replace(real_classes=0)).name == "pixels"


@pytest.mark.parametrize("shape", [(1, 1, 1), (28, 28, 1), (3, 9, 5), (64, 48, 3)])
def test_pictures_of_any_size_have_features(shape, trainings):
    examples = np.zeros((40, *shape), np.uint8)
    labels = np.arange(40, dtype=np.int32) % 2
    extract = load(ArraySource(examples, labels, NAMES)).extract
    found: Any = extract(np.zeros((3, *shape), np.float32))
    assert (found.vectors.shape, found.logits.shape) == ((3, 8), (3, 2))
