import numpy as np
import pytest

from ddpm_jax.data.batches import batch_indices, local_batch
from ddpm_jax.data.crops import CroppedSource, crop_corners
from ddpm_jax.data.source import ArraySource

N = 10
# Each pixel's value gives its picture and its position.
PICTURES = np.stack(
    np.broadcast_arrays(*np.ogrid[:N, :7, :9]),
    axis=-1,
).astype(np.uint8)


@pytest.fixture
def source() -> CroppedSource:
    return CroppedSource(ArraySource(PICTURES, np.arange(N, dtype=np.int32), ("x",) * N), (4, 5))


def test_a_batch_has_the_crops_at_its_corners(source):
    step, size = 3, 64
    batch = local_batch(source, seed=2, step=step, batch_size=size)
    indices, corners = batch_indices(2, step, size, N), crop_corners(2, step, size, source.margin)
    for example, label, index, (top, left) in zip(
        batch.examples, np.asarray(batch.labels), indices, corners, strict=True
    ):
        assert label == index
        np.testing.assert_array_equal(example, PICTURES[index, top : top + 4, left : left + 5])


def test_corners_are_uniform_and_depend_on_seed_and_step():
    margin = np.array([3, 4])
    corners = crop_corners(0, 0, 20_000, margin)
    assert corners.dtype == np.int64
    counts = np.bincount(corners[:, 0] * 5 + corners[:, 1], minlength=20)
    assert len(counts) == 20
    # 1000 per position, within five standard deviations.
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000)).all()
    np.testing.assert_array_equal(crop_corners(0, 0, 20_000, margin), corners)
    for seed, step in ((1, 0), (0, 1), (0, 2**40)):
        assert (crop_corners(seed, step, 20_000, margin) != corners).any(axis=1).mean() > 0.9
    # The draws of a step are not a shifted copy of those of its neighbour.
    assert not np.isin(
        crop_corners(0, 1, 500, margin * 10**6), crop_corners(0, 0, 500, margin * 10**6)
    ).any()


@pytest.mark.parametrize("seed", [0, 7])
def test_corners_share_no_bits_with_the_order_of_the_examples(seed):
    """Nor with those of other steps: with so wide a margin a corner is 62 of its 64 bits."""
    margin = np.full(2, 2**62 - 1)
    steps = [0, 1, 2, 63, 64, 65, 256, 2**16, 2**16 + 1, 2**32]
    drawn = [crop_corners(seed, step, 64, margin).ravel().astype(np.uint64) for step in steps]
    for epoch in (0, 1):
        raw = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(1000)
        drawn.append(raw % np.uint64(2**62))
    every = np.concatenate(drawn)
    assert len(np.unique(every)) == len(every)


def test_gather_returns_the_centre(source):
    batch = source.gather(np.array([6, 2]))
    np.testing.assert_array_equal(batch.examples, PICTURES[[6, 2], 1:5, 2:7])
    assert source.shape == (4, 5, 3)
    assert source.gather(np.array([], int)).examples.shape == (0, 4, 5, 3)


def test_without_margin_the_crop_is_the_whole_picture():
    whole = CroppedSource(ArraySource(PICTURES), (7, 9))
    batch = local_batch(whole, seed=0, step=0, batch_size=N)
    np.testing.assert_array_equal(batch.examples, PICTURES[batch_indices(0, 0, N, N)])
