"""The order of classes, labels by name, and labels that keep their meaning."""

import numpy as np
import pytest

from ddpm_jax.data.batches import local_batch
from ddpm_jax.data.classes import (
    describe_classes,
    describe_labels,
    find_labels,
    in_order,
    with_classes,
)
from ddpm_jax.data.crops import CroppedSource
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError

PETS = ("cat", "dog", "eel")
NUMBERED = ("0", "1", "2", "10")
FROM_ONE = tuple(str(number) for number in range(1, 11))
DIGITS = tuple("0123456789")


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "2", "0", "1", "2"], ["0", "1", "2", "10"]),
        (["dog", "cat"], ["cat", "dog"]),
        (["class 10", "class 9", "class"], ["class", "class 9", "class 10"]),
        (["01", "1", "001"], ["001", "01", "1"]),
        (["a2b10", "a2b9", "a10b1", "a"], ["a", "a2b9", "a2b10", "a10b1"]),
        (["n02", "x", "1"], ["1", "n02", "x"]),
        (["a9" + "0" * 5_000, "a10", "a0", "a"], ["a", "a0", "a10", "a9" + "0" * 5_000]),
        (["²", "١", "1"], ["1", "²", "١"]),
        ([], []),
    ],
)
def test_names_come_in_their_natural_order(names, ordered):
    assert list(in_order(names)) == ordered


@pytest.mark.parametrize(
    ("chosen", "names", "labels"),
    [
        (["cat", "eel", "cat"], PETS, [0, 2, 0]),
        (["cat", 1, "2"], PETS, [0, 1, 2]),
        ("dog", PETS, [1]),
        (2, PETS, [2]),
        (np.int64(2), PETS, [2]),
        (range(3), PETS, [0, 1, 2]),
        (["10"], NUMBERED, [3]),
        ([10, 2], NUMBERED, [3, 2]),
        (["1", "10"], FROM_ONE, [0, 9]),
        # As the samples of another draw have them.
        (np.array([3, 2]), NUMBERED, [3, 2]),
        ([9, "0"], DIGITS, [9, 0]),
        ([1, "0"], (), [1, 0]),
        ([], PETS, []),
        (["no class", "cat"], PETS, [-1, 0]),
        ("no class", ("cat", "no class"), [1]),
        (np.array([-1, 2]), PETS, [-1, 2]),
    ],
)
def test_a_class_is_chosen_by_name_or_by_number(chosen, names, labels):
    found = find_labels(chosen, names, len(names) or 3)
    assert found.dtype == np.int32
    assert found.tolist() == labels


@pytest.mark.parametrize(
    ("chosen", "names", "says"),
    [
        (["catt"], PETS, "there is no class catt (did you mean cat?)"),
        ([3], PETS, "there is no class 3; they are cat, dog, eel"),
        ([-1], PETS, "there is no class -1"),
        ([0.5], PETS, "there is no class 0.5"),
        (np.array([0.0]), PETS, "there is no class 0.0"),
        ([3], NUMBERED, "there is no class 3; they are 0, 1, 2, 10"),
        ([0], FROM_ONE, "there is no class 0"),
        (["10"], DIGITS, "there is no class 10; they are 0 … 9"),
        ([3], (), "there is no class 3; they are 0 … 2"),
        (["cat"], (), "there is no class cat; they are 0 … 2"),
        (np.array([0, 3]), PETS, "there is no class 3; they are 0 … 2"),
        (["zzz"], [f"q{i}" for i in range(99)], "q8, q9, …, q98"),
    ],
)
def test_a_class_that_does_not_exist_is_named_with_near_ones(chosen, names, says):
    with pytest.raises(UserError) as caught:
        find_labels(chosen, names, len(names) or 3)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (PETS, "0 = cat, 1 = dog, 2 = eel"),
        (DIGITS, "0 … 9, named alike"),
        (NUMBERED, "0 = 0, 1 = 1, 2 = 2, 3 = 10; a number is a class's name"),
        (["a\nb"], "0 = a b"),
        ([f"c{i}" for i in range(1000)], ", 8 = c8, 9 = c9, …, 999 = c999"),
    ],
)
def test_a_line_says_what_each_label_means(names, said):
    assert describe_classes(names).endswith(said)
    assert "\n" not in describe_classes(names)


def test_chosen_classes_are_said_by_name():
    assert describe_labels(np.array([3, 3]), NUMBERED) == "the class named 10"
    assert describe_labels(np.array([1, 0, 1]), PETS) == "the classes named dog, cat"


def pets(classes) -> ArraySource:
    """Pictures 2×2 that have the number of their class in PETS as level."""
    names = np.array(["dog", "cat", "eel", "cat"])
    levels = np.array([PETS.index(name) for name in names], np.uint8)
    labels = np.array([list(classes).index(name) for name in names], np.int32)
    return ArraySource(np.tile(levels[:, None, None, None], (1, 2, 2, 1)), labels, tuple(classes))


@pytest.mark.parametrize("order", [PETS, ("eel", "dog", "cat"), ("dog", "cat", "eel")])
def test_labels_keep_the_meaning_that_a_run_gave_them(order):
    for source in (pets(order), CroppedSource(pets(order), (1, 1))):
        kept = with_classes(source, PETS)
        batch = kept.gather(np.arange(4))
        assert kept.class_names == PETS
        assert np.asarray(batch.labels).tolist() == np.asarray(batch.examples)[:, 0, 0, 0].tolist()
        assert (len(kept), kept.shape) == (4, source.shape)
        # Random crops stay random crops.
        found, expected = (
            local_batch(each, seed=0, step=3, batch_size=4).examples for each in (kept, source)
        )
        np.testing.assert_array_equal(found, expected)
        assert isinstance(kept, CroppedSource) == isinstance(source, CroppedSource)


def test_fewer_classes_keep_their_labels_and_foreign_ones_are_refused():
    more = with_classes(pets(PETS), ("ape", *PETS))
    assert np.asarray(more.gather(np.arange(2)).labels).tolist() == [2, 1]
    with pytest.raises(UserError, match="a class eel, and the run was trained on cat, dog; give"):
        with_classes(pets(PETS), ("cat", "dog"))
    unlabelled = ArraySource(np.zeros((2, 2), np.float32))
    assert with_classes(unlabelled, PETS) is unlabelled
