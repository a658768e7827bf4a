"""Held-out examples: a part of the data that depends on its size and the seed alone."""

import numpy as np
import pytest

from ddpm_jax.data.batches import local_batch
from ddpm_jax.data.crops import CroppedSource
from ddpm_jax.data.held_out import hold_out, shuffled
from ddpm_jax.data.source import ArraySource, StreamSource, Tolerance, Unreadable
from ddpm_jax.errors import UserError


def numbered(n):
    """Examples that are their own numbers, with labels 0, 1, 2 in turn."""
    points = np.arange(n, dtype=np.float32)[:, None]
    return ArraySource(points, np.arange(n, dtype=np.int32) % 3, ("a", "b", "c"))


def numbers(source):
    return np.asarray(source.gather(np.arange(len(source))).examples).ravel().astype(int)


def test_each_example_is_in_one_part_with_its_label():
    rest, held_out = hold_out(numbered(100), 0.3, seed=5)
    assert (len(rest), len(held_out)) == (70, 30)
    assert np.all(np.diff(numbers(rest)) > 0)
    assert np.any(np.diff(numbers(held_out)) < 0)
    assert sorted([*numbers(rest), *numbers(held_out)]) == list(range(100))
    for part in (rest, held_out):
        batch = part.gather(np.arange(len(part)))
        np.testing.assert_array_equal(batch.labels, np.ravel(batch.examples).astype(int) % 3)
        assert part.class_names == ("a", "b", "c")


def test_the_parts_depend_on_the_size_and_the_seed_alone():
    first = numbers(hold_out(numbered(100), 0.3, seed=5)[1])
    np.testing.assert_array_equal(numbers(hold_out(numbered(100), 0.3, seed=5)[1]), first)
    # A larger share holds out more, and the same ones.
    np.testing.assert_array_equal(numbers(hold_out(numbered(100), 0.4, seed=5)[1])[:30], first)
    assert set(numbers(hold_out(numbered(100), 0.3, seed=6)[1])) != set(first)
    np.testing.assert_array_equal(np.sort(shuffled(1000, 0)), np.arange(1000))


@pytest.mark.parametrize(("n", "share"), [(100, 0.001), (100, 0.999), (1, 0.5), (4, 0.1)])
def test_a_part_without_examples_is_refused(n, share):
    with pytest.raises(UserError, match=rf"validation\.share is {share}; of {n} examples it must"):
        hold_out(numbered(n), share, seed=0)


def test_random_crops_are_cut_from_the_rest_only():
    images = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 6, 6, 1))
    source = CroppedSource(ArraySource(np.array(images)), (4, 4))
    rest, held_out = hold_out(source, 0.25, seed=1)
    assert rest.shape == held_out.shape == (4, 4, 1)
    drawn = [local_batch(rest, seed=1, step=step, batch_size=10).examples for step in range(6)]
    seen, kept = (
        set(np.ravel(drawn)),
        {int(image[0, 0, 0]) for image in np.asarray(held_out.gather(np.arange(10)).examples)},
    )
    assert seen == set(range(40)) - kept


def test_what_becomes_unreadable_is_replaced_by_a_neighbour_of_its_own_part():
    lost: set[int] = set()

    def read(indices):
        if lost & set(indices.tolist()):
            raise Unreadable("x.png", "gone")
        return [(np.full((1, 1, 1), index, np.uint8), 0) for index in indices]

    tolerance = Tolerance("pictures", lambda index: None, strict=False)
    source = StreamSource(read, length=30, shape=(1, 1, 1), tolerance=tolerance)
    rest, held_out = hold_out(source, 0.5, seed=0)
    kept, other = set(numbers(rest)), set(numbers(held_out))
    # Those whose neighbour in the whole data is held out.
    lost |= {index for index in kept if index + 1 in other}
    assert lost
    assert set(numbers(rest)) <= kept - lost
