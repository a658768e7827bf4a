from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from ddpm_jax.config import DigitsData
from ddpm_jax.data.digits import open_digits


def test_digits_are_scikit_learns_in_its_order():
    raw: Any = load_digits()
    source = open_digits(DigitsData())
    batch: Any = source.gather(np.arange(len(source)))
    assert (len(source), source.shape) == (1797, (8, 8, 1))
    assert (batch.examples.dtype, batch.labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(batch.labels, raw.target)
    assert source.class_names == tuple("0123456789")
    levels = batch.examples[..., 0].astype(float) * 16 / 255
    np.testing.assert_array_equal(np.rint(levels), raw.images)
    assert set(np.unique(batch.examples)) == {round(level * 255 / 16) for level in range(17)}
