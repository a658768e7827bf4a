"""Every row of FEATURES, by the same laws."""

import numpy as np
import pytest

from ddpm_jax.evaluation.features import FEATURES

every_extractor = pytest.mark.parametrize(
    ("extractor", "shape"),
    [
        pytest.param(row, shape, id=f"{name}-{shape}")
        for name, row in FEATURES.items()
        for shape in [(2,), (8, 8, 1), (6, 4, 3)]
        if row.obstacle(shape) is None
    ],
)


@every_extractor
def test_features_are_float64_vectors_of_each_example_alone(extractor, shape):
    examples = np.random.default_rng(0).uniform(-1, 1, (7, *shape)).astype(np.float32)
    extract = extractor.load()
    features = extract(examples)
    assert features.dtype == np.float64
    assert features.ndim == 2
    assert len(features) == 7
    np.testing.assert_array_equal(extract(examples[2:5]), features[2:5])


def test_pixels_are_the_example_itself():
    examples = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 2)).astype(np.float32)
    features = FEATURES["pixels"].load()(examples)
    np.testing.assert_array_equal(features, examples.reshape(3, -1))
