import logging
from typing import Any

import numpy as np
import pytest

from ddpm_jax.data import loading
from ddpm_jax.data.cache import Origin
from ddpm_jax.data.loading import materialize
from ddpm_jax.data.source import ArraySource, StreamSource, Tolerance, Unreadable
from ddpm_jax.errors import UserError


@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_streamed_and_in_memory_give_the_same(numbered, count):
    stream = numbered(200)
    array = materialize(stream)
    assert isinstance(array, ArraySource)
    assert (len(array), array.shape, array.class_names) == (200, (2, 2, 1), ("a", "b", "c"))
    indices = np.random.default_rng(0).integers(200, size=count)
    batches: list[Any] = [stream.gather(indices), array.gather(indices)]
    for batch in batches:
        assert (batch.examples.dtype, batch.labels.dtype) == (np.uint8, np.int32)
        expected = np.broadcast_to(indices[:, None, None, None], (count, 2, 2, 1))
        np.testing.assert_array_equal(batch.examples, expected)
        np.testing.assert_array_equal(batch.labels, indices % 3)


def test_data_over_the_limit_stays_a_stream(numbered, monkeypatch):
    stream = numbered(200)
    assert isinstance(materialize(stream, limit=4 * 200), ArraySource)
    assert materialize(stream, limit=4 * 200 - 1) is stream
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 4 * 200 - 1)
    assert materialize(stream) is stream


def test_no_labels_stay_none():
    def read(indices):
        return [(np.zeros((1, 1, 1), np.uint8), 0) for _ in indices]

    stream = StreamSource(read, length=3, shape=(1, 1, 1))
    for source in (stream, materialize(stream)):
        assert source.gather(np.arange(2)).labels is None


def test_every_part_is_decoded_to_its_own_rows(numbered, monkeypatch):
    monkeypatch.setattr(loading, "_PART", 7)
    loaded = materialize(numbered(100)).gather(np.arange(100))
    np.testing.assert_array_equal(loaded.examples[:, 0, 0, 0], np.arange(100))
    np.testing.assert_array_equal(loaded.labels, np.arange(100) % 3)


class Counted:
    """A source of 90 examples, some broken, that counts the reads."""

    def __init__(self, state: str = "one", broken=(3, 50), strict: bool = False, add: int = 0):
        self.reads = self.looks = 0

        def read(indices):
            self.reads += len(indices)
            for index in indices:
                if index in broken:
                    raise Unreadable(f"{index}.png", "torn")
            return [(np.full((1, 1, 1), i + add, np.uint8), int(i) % 2) for i in indices]

        def look(index):
            self.looks += 1
            if index in broken:
                raise Unreadable(f"{index}.png", "torn")

        self.source = StreamSource(
            read,
            length=90,
            shape=(1, 1, 1),
            class_names=("a", "b"),
            tolerance=Tolerance("pictures in x", look, strict),
            origin=Origin("pictures x", state),
        )

    def load(self, limit: int | None = None) -> tuple[list[int], list[int]]:
        loaded = materialize(self.source, limit=limit)
        self.reads, self.looks, counts = 0, 0, (self.reads, self.looks)
        batch: Any = loaded.gather(np.arange(len(loaded)))
        self.found = counts
        return batch.examples.ravel().tolist(), batch.labels.tolist()


GOOD = [i for i in range(90) if i not in (3, 50)]


@pytest.mark.parametrize("limit", [None, 0])
def test_the_first_pass_is_cached_for_the_next_start(limit, monkeypatch, cache, caplog):
    monkeypatch.setattr(loading, "MIN_CACHE_SECONDS", 0.0)
    first, again, changed = Counted(), Counted(), Counted("two", broken=(), add=1)
    with caplog.at_level(logging.WARNING):
        for counted in (first, again):
            assert counted.load(limit) == (GOOD, [i % 2 for i in GOOD])
    # The warning comes each time, cached or not.
    assert [record.getMessage() for record in caplog.records] == [
        "pictures in x: 2 of 90 can't be read and are left out (3.png, 50.png): torn: 2"
    ] * 2
    assert max(first.found) >= 90
    assert again.found == (0, 0)
    assert changed.load(limit)[0] == list(range(1, 91))
    assert max(changed.found) >= 90
    # The new state replaces the old one, so a growing folder does not fill the disk.
    assert len(list(cache.iterdir())) == 1


def test_quickly_decoded_data_is_not_cached(cache):
    Counted().load()
    assert list(cache.iterdir()) == []


def test_a_cache_that_can_not_be_written_is_no_error(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(loading, "MIN_CACHE_SECONDS", 0.0)
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        assert Counted(broken=()).load()[0] == list(range(90))
    assert "not cached" in caplog.text


@pytest.mark.parametrize("limit", [None, 0])
@pytest.mark.parametrize(
    ("broken", "strict", "match"),
    [
        (range(90), False, r"90 of 90 pictures in x can't be read; the first is 0\.png: torn"),
        ((7,), True, r"1 of 90.*7\.png: torn; fix or remove it, or set data\.strict to False"),
    ],
)
def test_no_example_or_strict_is_an_error_at_once(limit, broken, strict, match, monkeypatch):
    monkeypatch.setattr(loading, "MIN_CACHE_SECONDS", 0.0)
    for _ in range(2):  # from the source, then from the cache
        with pytest.raises(UserError, match=match) as caught:
            Counted(broken=broken, strict=strict).load(limit)
        assert "\n" not in str(caught.value)
