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
    assert len(data_url(board(noise, None))) < MOST_BYTES + 100


def test_what_does_not_fit_loses_little():
    """64 smooth pictures in colour: a PNG of them has too many bytes."""
    rows, columns = np.mgrid[0:32, 0:32] / 32
    phases = np.random.default_rng(0).uniform(0, 6, (64, 1, 1, 3))
    waves = np.sin(phases + (3 * rows + 2 * columns)[None, ..., None])
    url = data_url(board(waves.astype(np.float32), None))
    assert url.startswith("data:image/jpeg")
    assert len(url) < MOST_BYTES + 100
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as picture:
        seen = np.asarray(picture, np.float32)
    assert np.abs(seen - board(waves.astype(np.float32), None)).mean() < 4  # Of 255.


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
