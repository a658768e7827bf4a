import logging

import numpy as np
import pytest

from ddpm_jax.data.source import ArraySource, StreamSource, Tolerance, Unreadable
from ddpm_jax.errors import UserError

ROWS = np.array([4, 0, 4, 7])


def losing(lost: set[int], *, strict: bool = False) -> StreamSource:
    """Ten examples; example i is filled with i, and those in `lost` can't be read."""

    def read(indices):
        for index in indices:
            if index in lost:
                raise Unreadable(f"{index}.png", FileNotFoundError(2, "No such file"))
        return [(np.full((1, 1, 1), i, np.uint8), int(i)) for i in indices]

    tolerance = Tolerance("pictures in somewhere", lambda index: read([index]), strict)
    names = tuple("0123456789")
    return StreamSource(read, length=10, shape=(1, 1, 1), class_names=names, tolerance=tolerance)


def test_an_example_that_becomes_unreadable_is_replaced_by_the_next_with_one_warning(caplog):
    lost: set[int] = set()
    source = losing(lost)
    np.testing.assert_array_equal(source.gather(ROWS).examples.ravel(), ROWS)
    lost |= {4, 5}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            batch = source.gather(ROWS)
            assert np.asarray(batch.examples).ravel().tolist() == [6, 0, 6, 7]
            # The label belongs to the picture.
            assert np.asarray(batch.labels).tolist() == [6, 0, 6, 7]
    (record,) = caplog.records
    for part in ("4.png", "No such file", "1 of 10 pictures in somewhere"):
        assert part in record.getMessage()
    lost.add(9)
    assert np.asarray(source.gather(np.array([9])).examples).ravel().tolist() == [0]


@pytest.mark.parametrize(("lost", "strict"), [(set(range(10)), False), ({4}, True)])
def test_a_lost_disk_or_a_strict_source_ends_with_one_line(lost, strict):
    with pytest.raises(
        UserError, match=r"4\.png: No such file.*restore it.*same command again"
    ) as caught:
        losing(lost, strict=strict).gather(np.array([4]))
    assert "\n" not in str(caught.value)


def test_a_part_keeps_the_order():
    source = losing({2, 5}).part(np.array([0, 1, 3, 4, 6, 7, 8, 9]))
    batch = source.gather(np.arange(len(source)))
    assert np.asarray(batch.examples).ravel().tolist() == [0, 1, 3, 4, 6, 7, 8, 9]


def test_a_message_is_one_line_without_control_characters():
    said = str(Unreadable("a\n\x1b[2Jb.png", ValueError("one\ntwo\r\x07")))
    assert said == "a [2Jb.png: one two"


def test_only_a_memory_mapped_array_is_read_ahead(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6).reshape(3, 2))
    mapped = ArraySource(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert mapped.streams
    examples = mapped.gather(np.array([2, 0])).examples
    assert type(examples) is np.ndarray
    np.testing.assert_array_equal(examples, [[4, 5], [0, 1]])
    assert not ArraySource(np.zeros((3, 2))).streams
