import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.data.pixels import random_flip, to_pixels, to_unit

LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


@pytest.mark.parametrize("transform", [to_unit, jax.jit(to_unit)])
def test_pixels_come_back_exactly(transform):
    unit = transform(jnp.asarray(LEVELS))
    assert unit.dtype == jnp.float32
    assert (float(unit.min()), float(unit.max())) == (-1.0, 1.0)
    np.testing.assert_allclose(unit, LEVELS / 127.5 - 1, atol=1e-7)
    for back in (to_pixels(unit), jax.jit(to_pixels)(unit), to_pixels(np.asarray(unit))):
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, LEVELS)
    assert isinstance(to_pixels(np.asarray(unit)), np.ndarray)


def test_points_pass_unchanged():
    points = jnp.array([[0.5, -3.0]])
    np.testing.assert_array_equal(to_unit(points), points)


@pytest.mark.parametrize("xp", [np, jnp])
def test_to_pixels_rounds_to_the_nearest_and_clips(xp):
    values = xp.asarray([[-7.0, -1.001, (100.4 / 127.5) - 1, (100.6 / 127.5) - 1, 1.001, 1e9]])
    np.testing.assert_array_equal(to_pixels(values), [[0, 0, 100, 101, 255, 255]])


def test_flip_mirrors_about_half_along_the_width_and_nothing_else():
    B = 1000
    images = np.random.default_rng(0).integers(256, size=(B, 2, 3, 2), dtype=np.uint8)
    flipped = np.asarray(jax.jit(random_flip)(jax.random.key(0), jnp.asarray(images)))
    assert flipped.dtype == np.uint8
    same = (flipped == images).all(axis=(1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    # Five standard deviations of 1000 fair coins.
    assert abs(mirrored.sum() - B / 2) < 5 * np.sqrt(B) / 2
    again = random_flip(jax.random.key(0), jnp.asarray(images))
    np.testing.assert_array_equal(again, flipped)
    assert (np.asarray(random_flip(jax.random.key(1), jnp.asarray(images))) != flipped).any()
