"""Every row of FEATURES, by the same laws."""

import numpy as np
import pytest

from ddpm_jax.data.source import ArraySource
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features import FEATURES, FeatureContext

SHAPES = [(2,), (8, 8, 1), (6, 4, 3)]
CLASSES = 2
# A row that needs files a test can't have, and the options that give it some, is tested alone.
ALONE = {"inception"}


def facts(shape, num=40):
    return Facts(shape, shape, num, num, CLASSES, CLASSES)


def context(shape, num=40):
    """Real examples of two classes, dark and bright."""
    labels = (np.arange(num) % CLASSES).astype(np.int32)
    noise = np.random.default_rng(1).integers(0, 100, (num, *shape))
    examples = (noise + 100 * labels.reshape(-1, *[1] * len(shape))).astype(np.uint8)
    return FeatureContext(ArraySource(examples, labels, ("dark", "bright")), lambda line: None)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, id=f"{name}-{shape}")
        for name, row in FEATURES.items()
        for shape in SHAPES
        if name not in ALONE and row().obstacle(facts(shape)) is None
    ],
)
def test_features_are_float32_vectors_of_each_example_alone(name, shape):
    extractor = FEATURES[name]().load(context(shape))
    examples = np.random.default_rng(0).uniform(-1, 1, (7, *shape)).astype(np.float32)
    features = extractor.extract(examples)
    assert features.vectors.dtype == np.float32
    assert features.vectors.ndim == 2
    assert len(features.vectors) == 7
    part = extractor.extract(examples[2:5])
    np.testing.assert_allclose(part.vectors, features.vectors[2:5], rtol=1e-5, atol=1e-6)
    if features.logits is not None and part.logits is not None:
        assert features.logits.shape == (7, CLASSES)
        np.testing.assert_allclose(part.logits, features.logits[2:5], rtol=1e-5, atol=1e-5)
    assert isinstance(extractor.described, dict)


def test_pixels_are_the_example_itself():
    examples = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 2)).astype(np.float32)
    found = FEATURES["pixels"]().load(context((4, 4, 2))).extract(examples)
    np.testing.assert_array_equal(found.vectors, examples.reshape(3, -1))
    assert found.logits is None
