import io
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.pictures import decode_picture, fit_pixels


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


# WebP has no grey pictures.
@pytest.mark.parametrize(
    ("kind", "channels"),
    [("PNG", 1), ("PNG", 3), ("PNG", 4), ("TIFF", 1), ("TIFF", 3), ("WEBP", 3), ("WEBP", 4)],
)
def test_a_lossless_picture_of_the_right_shape_is_unchanged(kind, channels):
    shape = (5, 7, channels)
    pixels = noise(*shape)
    if shape[2] == 4:
        pixels[..., 3] = np.maximum(pixels[..., 3], 1)
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(pixels[..., 0] if shape[2] == 1 else pixels)
    found = decode_picture(encoded(image, kind, **options), shape)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


def test_grey_becomes_three_equal_channels_and_back():
    grey = noise(4, 4)
    colour = decode_picture(encoded(Image.fromarray(grey)), (4, 4, 3))
    np.testing.assert_array_equal(colour, np.repeat(grey[..., None], 3, axis=2))
    back = decode_picture(encoded(Image.fromarray(colour)), (4, 4, 1))
    np.testing.assert_array_equal(back[..., 0], grey)


def test_black_and_white_is_0_and_255():
    bits = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(decode_picture(encoded(bits), (1, 2, 1)).ravel(), [255, 0])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_is_looked_up(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    found = decode_picture(encoded(image, kind), (1, 2, 3))
    np.testing.assert_array_equal(found, [[[200, 100, 50], [10, 20, 30]]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_keep_their_range(kind):
    levels = np.array([[0, 257, 257 * 128, 65535]], np.uint16)
    found = decode_picture(encoded(Image.fromarray(levels), kind), (1, 4, 1))
    np.testing.assert_array_equal(found.ravel(), [0, 1, 128, 255])


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_become_white(channels):
    pixels = np.array([[[9, 9, 9, 255], [9, 9, 9, 0], [0, 0, 0, 128]]], np.uint8)
    found = decode_picture(encoded(Image.fromarray(pixels)), (1, 3, channels))
    np.testing.assert_array_equal(found[0, :, 0], [9, 255, 127])


def test_a_transparent_palette_becomes_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    found = decode_picture(encoded(image, transparency=bytes([0, 255])), (1, 2, 3))
    np.testing.assert_array_equal(found, [[[200, 100, 50], [255, 255, 255]]])
    alpha = decode_picture(encoded(image, transparency=bytes([0, 255])), (1, 2, 4))
    np.testing.assert_array_equal(alpha[..., 3], [[255, 0]])


def test_a_camera_picture_is_rotated_as_its_exif_says():
    pixels = noise(2, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise for display
    found = decode_picture(encoded(Image.fromarray(pixels), exif=exif), (3, 2, 3))
    np.testing.assert_array_equal(found, np.rot90(pixels, k=-1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_made_upright(kind, orientation):
    # Four different quarters, large enough to survive JPEG compression.
    quarters = np.array([[0, 80], [160, 240]], np.uint8)
    shown = quarters.repeat(16, axis=0).repeat(24, axis=1)
    # EXIF's table: where the first stored row and column are in the upright picture.
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, k=-1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    found = decode_picture(picture, (32, 48, 1))[..., 0].astype(int)
    assert np.abs(found - shown).max() <= 4


def test_broken_exif_leaves_a_picture_unrotated():
    pixels = noise(2, 3, 3)
    picture = encoded(Image.fromarray(pixels), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1")
    np.testing.assert_array_equal(decode_picture(picture, (2, 3, 3)), pixels)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    # Only a header, without any pixels to unpack.
    bomb = bytearray(encoded(Image.new("L", (1, 1))))
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match=f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels"):
        decode_picture(bytes(bomb), (1, 1, 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    monkeypatch.setattr(warnings, "warn", lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match="it has more than 15 pixels"):
        decode_picture(encoded(Image.new("L", (4, 4))), (1, 1, 1))


def test_only_pictures_are_opened_whatever_their_names():
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(ValueError, match="it is not a picture"):
        decode_picture(page, (1, 1, 1))


def test_the_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_picture(gif, (1, 1, 3)), [[[255, 0, 0]]])


@pytest.mark.parametrize("transpose", [False, True])
def test_the_longer_side_is_cropped_around_the_centre(transpose):
    # A 4×12 picture in thirds: only the middle third remains.
    pixels = np.repeat(np.array([[0, 100, 200]], np.uint8), 4, axis=1).repeat(4, axis=0)
    pixels = pixels.T if transpose else pixels
    found = decode_picture(encoded(Image.fromarray(pixels)), (4, 4, 1))
    np.testing.assert_array_equal(found, np.full((4, 4, 1), 100))


def test_a_smaller_size_is_averaged_not_subsampled():
    stripes = np.tile(np.array([[0, 255]], np.uint8), (64, 32))
    found = decode_picture(encoded(Image.fromarray(stripes)), (8, 8, 1)).astype(int)
    assert np.abs(found[:, 1:-1] - 127.5).max() < 16


def test_reduced_jpeg_decoding_hardly_changes_a_photograph():
    smooth = np.add.outer(np.linspace(0, 120, 512), np.linspace(0, 120, 640))
    image = Image.fromarray(smooth.astype(np.uint8))
    whole = decode_picture(encoded(image), (16, 16, 1)).astype(int)
    reduced = decode_picture(encoded(image, "JPEG", quality=95), (16, 16, 1)).astype(int)
    assert np.abs(whole - reduced).max() <= 2


def test_floating_point_pixels_are_refused():
    image = Image.fromarray(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="floating-point"):
        decode_picture(encoded(image, "TIFF"), (2, 2, 1))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_fitted_as_pictures_are(channels):
    pixels = noise(9, 7, channels)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    for shape in ((9, 7, channels), (4, 5, 3), (4, 5, 1)):
        found = fit_pixels(pixels, shape)
        np.testing.assert_array_equal(found, decode_picture(encoded(image), shape))
