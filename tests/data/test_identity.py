"""What a run records about its data, and which differences it names."""

import numpy as np
import pytest

from ddpm_jax.data import identity
from ddpm_jax.data.identity import describe_source, source_changes
from ddpm_jax.data.source import ArraySource


def described(count: int, *classes: str):
    labels = np.zeros(count, np.int32) if classes else None
    return describe_source(ArraySource(np.zeros((count, 2), np.float32), labels, classes))


def test_a_description_has_the_number_of_examples_the_classes_and_the_content():
    content = described(3, "cat", "dog").pop("content")
    assert described(3, "cat", "dog") == {
        "examples": 3,
        "classes": ["cat", "dog"],
        "content": content,
    }
    assert described(5)["classes"] == []
    assert described(5)["content"] != content


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((3, "a", "b"), (3, "a", "b"), {}),
        ((3, "a", "b"), (4, "a", "b"), {"data.examples": (3, 4)}),
        ((3, "a"), (4, "a", "b"), {"data.examples": (3, 4), "data.classes": (1, 2)}),
        ((3, "a", "b", "c"), (3, "a", "x", "y"), {"data.classes.1": ("b", "x")}),
        ((3, "a"), (3,), {"data.classes": (1, 0)}),
    ],
)
def test_differences_are_named_with_their_values(old, new, expected):
    assert source_changes(described(*old), described(*new)) == expected


def images(count: int = 100, *, classes=("a", "b"), labels=None, level_of_last: int = 9):
    examples = (np.arange(count * 16) % 251).astype(np.uint8).reshape(count, 4, 4, 1)
    examples[-1] = level_of_last
    labels = np.arange(count) % 2 if labels is None else labels
    return ArraySource(examples, labels.astype(np.int32), classes)


def test_other_examples_or_labels_in_the_same_number_are_other_content():
    old = describe_source(images())
    mended = np.arange(100) % 2
    mended[41] = 0
    for other in (images(level_of_last=10), images(labels=mended), images(labels=1 - mended)):
        changes = source_changes(old, describe_source(other))
        assert list(changes) == ["data.content"]
    assert source_changes(old, describe_source(images())) == {}
    # What an older version did not record is not compared.
    older = {name: value for name, value in old.items() if name != "content"}
    assert source_changes(older, describe_source(images(level_of_last=10))) == {}


def test_the_order_of_the_classes_is_no_content():
    swapped = images(classes=("b", "a"), labels=1 - np.arange(100) % 2)
    assert describe_source(swapped)["content"] == describe_source(images())["content"]


def test_of_large_data_an_even_part_is_read(monkeypatch):
    monkeypatch.setattr(identity, "_SAMPLED_BYTES", 0)
    read = []

    class Watched(ArraySource):
        def gather(self, indices):
            read.extend(indices.tolist())
            return super().gather(indices)

    whole = images(1000)
    describe_source(Watched(whole.examples, whole.labels, whole.class_names))
    assert len(read) == identity._SAMPLED
    assert (read[0], read[-1]) == (0, 999)
    assert set(np.diff(read)) <= {15, 16}
