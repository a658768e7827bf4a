import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from ddpm_jax.data.pictures import (
    FEWER_BANDS,
    FEWER_LEVELS,
    FIRST_PAGE,
    NO_PROFILE,
    ON_WHITE,
    TO_GREY,
    RangeError,
    decode,
    decode_picture,
    fit_pixels,
)


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


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
def test_levels_whose_white_is_not_known_need_a_span(dtype):
    ramp = np.linspace(-1000, 1000, 8)[None].astype(dtype)
    picture = encoded(Image.fromarray(ramp), "TIFF")
    with pytest.raises(RangeError, match="from -1000 to 1000"):
        decode_picture(picture, (1, 8, 1))
    found = decode(picture, (1, 8, 1), span=(-1000, 1000))
    expected = np.rint((ramp.astype(np.float64) + 1000) * 255 / 2000)
    np.testing.assert_array_equal(found.pixels[..., 0], expected)
    assert FEWER_LEVELS in found.changes
    upside_down = decode_picture(picture, (1, 8, 1), span=(1000, -1000))
    np.testing.assert_array_equal(upside_down[..., 0], np.rint(255 - expected))
    with pytest.raises(RangeError, match="widen it"):
        decode_picture(picture, (1, 8, 1), span=(-999, 1000))


def test_a_level_that_is_not_a_number_is_refused():
    picture = encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF")
    with pytest.raises(ValueError, match="NaN or infinite"):
        decode_picture(picture, (1, 2, 1), span=(0, 1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_12_bits_in_16_are_decoded_as_they_are_and_their_greatest_is_told(kind):
    levels = np.array([[0, 4095], [2048, 1024]], np.uint16).repeat(16, 0).repeat(16, 1)
    found = decode(encoded(Image.fromarray(levels), kind), (32, 32, 1))
    assert (found.bits, found.greatest) == (16, 4095)
    np.testing.assert_array_equal(found.pixels[..., 0], np.rint(levels / 257))
    stretched = decode(encoded(Image.fromarray(levels), kind), (32, 32, 1), span=(0, 4095))
    np.testing.assert_array_equal(stretched.pixels[..., 0], np.rint(levels / 4095 * 255))


def test_a_format_that_states_its_white_is_not_in_doubt():
    found = decode(b"P5 2 1 4095\n" + struct.pack(">HH", 4095, 0), (1, 2, 1))
    np.testing.assert_array_equal(found.pixels.ravel(), [255, 0])
    bits = decode(encoded(Image.new("1", (2, 2))), (2, 2, 1))
    palette = decode(encoded(Image.new("P", (2, 2))), (2, 2, 1))
    assert (bits.bits, palette.bits) == (0, 0)


def test_an_inverted_16_bit_tiff_is_turned_around():
    levels = np.array([[0, 65535, 257]], np.uint16)
    picture = encoded(Image.fromarray(levels), "TIFF", tiffinfo={262: 0})
    with Image.open(io.BytesIO(picture)) as image:
        assert image.tag_v2[262] == 0  # type: ignore[attr-defined]
    np.testing.assert_array_equal(decode_picture(picture, (1, 3, 1)).ravel(), [255, 0, 254])


def chunked(width: int, bits: int, colour: int, row: bytes, **chunks: bytes) -> bytes:
    """A PNG of one row, written by hand: Pillow writes no such files."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    middle = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    packed = zlib.compress(b"\0" + row)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            middle,
            chunk(b"IDAT", packed),
            chunk(b"IEND", b""),
        ]
    )


CLEAR = {
    "16 bits": chunked(2, 16, 0, struct.pack(">HH", 1000, 40_000), tRNS=struct.pack(">H", 1000)),
    "8 bits": chunked(2, 8, 0, bytes([9, 155]), tRNS=b"\0\x09"),
    "4 bits": chunked(2, 4, 0, b"\x29", tRNS=b"\0\x02"),
    "2 bits": chunked(2, 2, 0, b"\x60", tRNS=b"\0\x01"),
    "1 bit": chunked(2, 1, 0, b"\x40", tRNS=b"\0\0"),
    "16 bits of colour": chunked(
        2,
        16,
        2,
        struct.pack(">6H", 1000, 2000, 3000, 9, 9, 40_000),
        tRNS=struct.pack(">3H", 1000, 2000, 3000),
    ),
}


@pytest.mark.parametrize("case", CLEAR)
def test_a_transparent_level_is_transparent_in_any_depth(case):
    alpha = decode_picture(CLEAR[case], (1, 2, 4))[0, :, 3]
    np.testing.assert_array_equal(alpha, [0, 255])
    for channels in (1, 3):
        found = decode(CLEAR[case], (1, 2, channels))
        assert (found.pixels[0, 0] == 255).all()
        assert ON_WHITE in found.changes
    assert (decode_picture(CLEAR[case], (1, 2, 3))[0, 1] != 255).any() or case == "1 bit"


def test_16_bits_of_colour_are_told_to_be_fewer():
    row = struct.pack(">6H", 0, 128 * 256, 65535, 1, 2, 3)
    found = decode(chunked(2, 16, 2, row), (1, 2, 3))
    np.testing.assert_array_equal(found.pixels, [[[0, 128, 255], [0, 0, 0]]])
    assert found.changes == (FEWER_LEVELS,)
    wide = decode(b"P6 1 1 65535\n" + struct.pack(">3H", 0, 30_000, 65535), (1, 1, 3))
    assert wide.changes == (FEWER_LEVELS,)


def test_bands_that_pillow_drops_are_told():
    """A TIFF of five bands, written by hand: Pillow reads three and says nothing."""
    tags = [(256, 1), (257, 1), (259, 1), (262, 2), (273, 300), (277, 5), (278, 1), (279, 5)]
    tags = [*tags, (258, 200, 5), (338, 0, 2)]
    entries = b"".join(
        struct.pack(
            "<HHII", tag, 4 if tag == 273 else 3, *(rest[::-1] if len(rest) > 1 else (1, *rest))
        )
        for tag, *rest in sorted(tags)
    )
    body = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    body = body.ljust(200, b"\0") + struct.pack("<5H", 8, 8, 8, 8, 8)
    picture = body.ljust(300, b"\0") + bytes([10, 20, 30, 40, 50])
    found = decode(picture, (1, 1, 3))
    np.testing.assert_array_equal(found.pixels, [[[10, 20, 30]]])
    assert FEWER_BANDS in found.changes


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr", "LA", "RGBA", "P", "1", "L", "RGB"])
def test_every_mode_of_a_tiff_is_read(mode):
    image = Image.new("RGB", (2, 2), (200, 200, 200))
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        stored = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
        assert stored is not None
    else:
        stored = image.convert(mode)
    for channels in (1, 3, 4):
        found = decode_picture(encoded(stored, "TIFF"), (2, 2, channels))
        expected = 255 if mode == "1" else 200
        assert np.abs(found[..., : min(channels, 3)].astype(int) - expected).max() <= 4


def test_what_changes_is_told():
    grey, colour = Image.new("L", (2, 2), 9), Image.new("RGB", (2, 2), "red")
    assert decode(encoded(grey), (2, 2, 1)).changes == ()
    assert decode(encoded(grey), (2, 2, 3)).changes == ()
    assert decode(encoded(colour), (2, 2, 1)).changes == (TO_GREY,)
    clear = encoded(colour.convert("RGBA"))
    assert decode(clear, (2, 2, 4)).changes == ()
    assert decode(clear, (2, 2, 3)).changes == (ON_WHITE,)
    film = encoded(grey, "TIFF", save_all=True, append_images=[Image.new("L", (2, 2), 99)])
    assert decode(film, (2, 2, 1)).changes == (FIRST_PAGE,)
    second = decode(film, (2, 2, 1), page=1)
    assert (second.changes, second.pixels[0, 0, 0]) == ((), 99)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_the_size_is_that_of_the_upright_picture_before_scaling(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = encoded(Image.new("L", (400, 300)), kind, exif=exif)
    expected = (300, 400) if orientation == 1 else (400, 300)
    assert decode(picture, (16, 16, 1)).size == expected


def test_bands_are_fitted_one_by_one():
    pixels = noise(9, 7, 5)
    found = fit_pixels(pixels, (4, 3, 5))
    for band in range(5):
        np.testing.assert_array_equal(
            found[..., band], fit_pixels(pixels[..., band], (4, 3, 1))[..., 0]
        )
    # A fourth band that is no transparency must not weigh the others.
    four = fit_pixels(pixels[..., :4], (4, 3, 4), transparent=False)
    np.testing.assert_array_equal(four, found[..., :4])
    assert (fit_pixels(pixels[..., :4], (4, 3, 4)) != four).any()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_fitted_as_pictures_are(channels):
    pixels = noise(9, 7, channels)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    for shape in ((9, 7, channels), (4, 5, 3), (4, 5, 1)):
        found = fit_pixels(pixels, shape)
        np.testing.assert_array_equal(found, decode_picture(encoded(image), shape))


def test_a_colour_profile_other_than_srgb_is_told():
    colour = Image.new("RGB", (2, 2), (200, 10, 10))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Pillow's own profile is of version 4, whose text is UTF-16.
    other = srgb.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"))
    assert other != srgb
    cases = (None, ()), (srgb, ()), (other, (NO_PROFILE,)), (other + b"sRGB", ())
    for profile, changes in cases:
        for kind in ("PNG", "JPEG", "TIFF"):
            picture = encoded(colour, kind, icc_profile=profile)
            assert decode(picture, (2, 2, 3)).changes == changes, kind
