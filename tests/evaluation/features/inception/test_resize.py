"""The resizes against the same ones written a pixel, or a matrix, at a time."""

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features.inception.resize import RESIZES, resize
from tests.evaluation.features.inception import oracle

SIZES = [(1, 1), (2, 3), (5, 1), (8, 8), (32, 28), (299, 299), (300, 333), (640, 480)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_mode = pytest.mark.parametrize("mode", RESIZES)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@every_size
def test_tf1_rounds_as_each_operation_alone(size):
    picture = noise(*size, 3)
    found = resize(picture[None], "tf1")[0]
    places = np.random.default_rng(1).integers(0, 299, (400, 2)).tolist()
    places += [(i, j) for i in (0, 298) for j in (0, 298)]
    for i, j in places:
        np.testing.assert_array_equal(found[i, j], oracle.tf1_pixel(picture, i, j))


@every_size
def test_torch_interpolates_between_two_pixels_each_way(size):
    picture = noise(*size, 3)
    written = oracle.resampled(picture, oracle.triangle, 1, widen=False) / 127.5 - 1
    # In float32 the scale and the place near n are each off by n · 2^-24 at most, on two axes, and
    # neighbours differ by up to 2.
    tolerance = 1e-6 + 8 * max(size) * 2.0**-24
    np.testing.assert_allclose(resize(picture[None], "torch")[0], written, rtol=0, atol=tolerance)


@every_size
def test_clean_is_cubic_with_antialiasing_and_clipped(size):
    picture = noise(*size, 3)
    written = (oracle.resampled(picture, oracle.cubic, 2, widen=True).clip(0, 255) - 128) / 128
    np.testing.assert_allclose(resize(picture[None], "clean")[0], written, rtol=0, atol=1e-6)


@every_size
def test_torch_is_pytorchs_own(size):
    torch = pytest.importorskip("torch")
    pixels = noise(2, *size, 3)
    first = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float() / 255
    theirs = 2 * torch.nn.functional.interpolate(first, (299, 299), mode="bilinear") - 1
    ours = resize(pixels, "torch")
    np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-6)


@every_mode
def test_a_picture_is_resized_alone_and_grey_is_three_equal_channels(mode):
    grey = noise(3, 8, 6, 1)
    found = resize(grey, mode)
    assert found.shape == (3, 299, 299, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, resize(np.repeat(grey, 3, axis=-1), mode))
    np.testing.assert_array_equal(found[1:2], resize(grey[1:2], mode))


@every_mode
@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_level_stays_one_level_in_the_modes_range(mode, level):
    level_there = level / 127.5 - 1 if mode == "torch" else (level - 128) / 128
    found = resize(np.full((1, 5, 9, 3), level, np.uint8), mode)
    np.testing.assert_allclose(found, level_there, rtol=0, atol=3e-7)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_refused_in_words(channels):
    with pytest.raises(UserError, match=f"these have {channels}; leave out their alpha channel"):
        resize(noise(1, 4, 4, channels), "tf1")


def test_other_channels_and_modes_are_refused():
    with pytest.raises(UserError, match=r"1 or 3 channels, and these have 5$"):
        resize(noise(1, 4, 4, 5), "tf1")
    with pytest.raises(ValueError, match="unknown resize mode 'tf2': known are tf1, torch"):
        resize(noise(1, 4, 4, 3), "tf2")
