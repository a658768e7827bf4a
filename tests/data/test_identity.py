"""What a run records about its data, and which differences it names."""

import numpy as np
import pytest

from ddpm_jax.data.identity import describe_source, source_changes
from ddpm_jax.data.source import ArraySource


def described(count: int, *classes: str):
    labels = np.zeros(count, np.int32) if classes else None
    return describe_source(ArraySource(np.zeros((count, 2), np.float32), labels, classes))


def test_a_description_has_the_number_of_examples_and_the_classes():
    assert described(3, "cat", "dog") == {"examples": 3, "classes": ["cat", "dog"]}
    assert described(5) == {"examples": 5, "classes": []}


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
