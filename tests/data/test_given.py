import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.given import read_given
from ddpm_jax.errors import UserError
from ddpm_jax.files import storage_path

GREY = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.fixture
def path(tmp_path):
    return storage_path(tmp_path / "picture.png")


def test_a_picture_is_read_as_it_is(path):
    for pixels in (GREY, COLOURS):
        Image.fromarray(pixels).save(path)
        found = read_given(path)
        np.testing.assert_array_equal(found.pixels.squeeze(), pixels)
        assert found.transparent is None
        assert found.changes == ()
    Image.fromarray(GREY).convert("RGB").save(path)
    assert read_given(path).pixels.shape == (5, 7, 1)


def test_alpha_says_what_is_transparent_and_hides_no_colour(path):
    alpha = np.full((5, 7), 255, np.uint8)
    alpha[:2], alpha[2] = 0, 128
    Image.fromarray(np.dstack([COLOURS, alpha])).save(path)
    found = read_given(path)
    np.testing.assert_array_equal(found.pixels, COLOURS)
    np.testing.assert_array_equal(found.transparent, alpha < 128)


def test_a_loss_of_levels_is_told(path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
    found = read_given(path)
    np.testing.assert_array_equal(found.pixels[..., 0], GREY)
    assert found.changes == ("rounded to 256 levels",)


def test_what_is_no_picture_is_refused(path):
    with pytest.raises(UserError, match="does not exist; give a picture's file"):
        read_given(path)
    with pytest.raises(UserError, match="is a folder; give a picture's file"):
        read_given(path.parent)
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"can't be read \(it is not a picture\)"):
        read_given(path)
    Image.fromarray(np.full((5, 7), -5, np.int32)).save(path, "TIFF")
    with pytest.raises(UserError, match=r"picture\.png has signed or 32-bit levels from -5 to -5"):
        read_given(path)
