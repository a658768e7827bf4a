from typing import Any

import numpy as np
import pytest

from ddpm_jax.data import source as source_module
from ddpm_jax.data.source import ArraySource, StreamSource, load


@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_streamed_and_in_memory_give_the_same(numbered, count):
    stream = numbered(200)
    array = load(stream)
    assert isinstance(array, ArraySource)
    assert (len(array), array.shape, array.class_names) == (200, (2, 2, 1), ("a", "b", "c"))
    indices = np.random.default_rng(0).integers(200, size=count)
    batches: list[Any] = [stream.gather(indices), array.gather(indices)]
    for batch in batches:
        assert (batch.examples.dtype, batch.labels.dtype) == (np.uint8, np.int32)
        expected = np.broadcast_to(indices[:, None, None, None], (count, 2, 2, 1))
        np.testing.assert_array_equal(batch.examples, expected)
        np.testing.assert_array_equal(batch.labels, indices % 3)


def test_a_set_over_the_limit_is_not_held(numbered, monkeypatch):
    stream = numbered(200)
    assert isinstance(load(stream, limit=4 * 200), ArraySource)
    assert load(stream, limit=4 * 200 - 1) is stream
    monkeypatch.setattr(source_module, "IN_MEMORY_BYTES", 4 * 200 - 1)
    assert load(stream) is stream


def test_no_labels_stay_none():
    def read(indices):
        return [(np.zeros((1, 1, 1), np.uint8), 0) for _ in indices]

    stream = StreamSource(read, length=3, shape=(1, 1, 1))
    for source in (stream, load(stream)):
        assert source.gather(np.arange(2)).labels is None


def test_a_loaded_chunk_is_not_out_of_place(numbered, monkeypatch):
    monkeypatch.setattr(source_module, "_CHUNK", 7)
    loaded = load(numbered(100)).gather(np.arange(100))
    np.testing.assert_array_equal(loaded.examples[:, 0, 0, 0], np.arange(100))
    np.testing.assert_array_equal(loaded.labels, np.arange(100) % 3)
