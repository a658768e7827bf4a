"""Every row of FEATURES, by the same laws."""

from importlib import import_module

import numpy as np
import pytest

from ddpm_jax.data.source import ArraySource
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features import FEATURES, FeatureContext
from ddpm_jax.tables import defaults_of

pytestmark = pytest.mark.usefixtures("one_device")


def applies(row, shape):
    return row.obstacle(Facts(shape, shape, 60, 60, 2, 0)) is None


every_extractor = pytest.mark.parametrize(
    ("row", "shape"),
    [
        pytest.param(make(), shape, id=f"{name}-{shape}")
        for name, make in FEATURES.items()
        for shape in [(2,), (8, 8, 1), (6, 4, 3)]
        if applies(make(), shape)
    ],
)


@every_extractor
def test_features_are_float32_vectors_of_each_example_alone(row, shape, monkeypatch):
    module = import_module("ddpm_jax.evaluation.features.classifier")
    quick = module.Settings(channels=(4, 4), least_steps=2, most_steps=2, batch_size=4)
    monkeypatch.setattr(module, "SETTINGS", quick)
    rng = np.random.default_rng(0)
    examples = rng.uniform(-1, 1, (7, *shape)).astype(np.float32)
    labels = np.arange(60, dtype=np.int32) % 2
    real = ArraySource(rng.integers(256, size=(60, *shape)).astype(np.uint8), labels, ("a", "b"))
    extract = row.load(FeatureContext(real, lambda line: None)).extract
    features, some = extract(examples), extract(examples[2:5])
    assert features.vectors.dtype == np.float32
    assert features.vectors.ndim == 2
    assert len(features.vectors) == 7
    np.testing.assert_array_equal(some.vectors, features.vectors[2:5])
    assert (features.logits is None) == (some.logits is None)
    if features.logits is not None:
        assert features.logits.dtype == np.float32
        np.testing.assert_array_equal(some.logits, features.logits[2:5])


def test_pixels_are_the_example_itself():
    examples = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 2)).astype(np.float32)
    extract = FEATURES["pixels"]().load(FeatureContext(None, lambda line: None)).extract
    np.testing.assert_array_equal(extract(examples).vectors, examples.reshape(3, -1))


@pytest.mark.parametrize("name", FEATURES)
def test_options_have_defaults_and_a_row_is_chosen_without_them(name):
    assert FEATURES[name](**defaults_of(FEATURES[name])).obstacle
