"""Frames: boards of whole pixels, and no more bytes than a frame may have."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.studio.frames import MOST_BYTES, board, data_url, numbers, shown_frame


def test_a_board_has_the_pictures_in_rows():
    pictures = np.linspace(-1, 1, 3 * 2 * 4).reshape(3, 2, 4, 1).astype(np.float32)
    found = board(pictures, None)
    assert found.shape == (4, 8, 1)
    pixels = np.rint(pictures * 127.5 + 127.5)
    np.testing.assert_array_equal(found[:2, 4:], pixels[1])
    np.testing.assert_array_equal(found[2:, :4], pixels[2])
    assert not found[2:, 4:].any()
    assert board(np.full((1, 2, 2, 2), np.nan, np.float32), (1,)).shape == (2, 2, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_of_64_pictures_of_32_fits(channels):
    """The worst frame: x_t is noise, and x̂_0 is as hard."""
    noise = np.random.default_rng(0).normal(size=(64, 32, 32, channels)).astype(np.float32)
    assert sum(len(each or "") for each in shown_frame(noise, noise, None).values()) < 100_000
    url = data_url(board(noise, None))
    assert len(url) < MOST_BYTES + 100
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))), np.float32)
    error = np.abs(seen - np.squeeze(board(noise, None))).mean()
    assert error < 40  # Of 255; noise without the picture would be 96 off.


def test_what_fits_is_exact():
    few = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32)
    url = data_url(board(few, None))
    assert url.startswith("data:image/png")
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))
    np.testing.assert_array_equal(seen, board(few, None)[..., 0])


def test_points_are_their_numbers():
    points = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    found = shown_frame(points, None, None)
    assert found == {"x": numbers(points), "x_0": None}
    read = np.frombuffer(base64.b64decode(numbers(points)), "<f4")
    np.testing.assert_array_equal(read.reshape(5, 2), points)
