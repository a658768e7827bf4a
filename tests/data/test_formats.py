import io
import types

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import formats
from ddpm_jax.data.formats import (
    count_pages,
    has_pages,
    has_picture,
    open_picture_file,
    orientation,
    suffixes,
)


def encoded(kind: str, mode: str = "L", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (16, 16), 200 if mode == "L" else None).save(file, kind, **options)
    return file.getvalue()


def test_the_endings_are_those_that_pillow_knows():
    assert {".png", ".jfif", ".jpe", ".webp", ".tif", ".jp2", ".tga", ".ppm"} <= suffixes()
    assert all(Image.registered_extensions()[ending] in Image.OPEN for ending in suffixes())


@pytest.mark.parametrize("ending", [".eps", ".ps", ".wmf", ".emf", ".h5", ".mpg", ".pdf"])
def test_what_pillow_does_not_decode_itself_is_no_picture(ending):
    assert ending not in suffixes()


def test_a_plugin_adds_its_endings(monkeypatch):
    def register() -> None:
        monkeypatch.setitem(Image.OPEN, "HEIF", (None, lambda head: head[4:8] == b"ftyp"))
        monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")

    Image.init()
    plugin = types.SimpleNamespace(register_heif_opener=register)
    monkeypatch.setattr(formats.importlib, "import_module", lambda name: plugin)
    formats._register_heif.cache_clear()
    try:
        assert ".heic" in suffixes()
        assert has_picture(b"\0\0\0\x18ftypheic")
    finally:
        formats._register_heif.cache_clear()


def test_content_decides_whatever_the_ending_says():
    for name in ("x.png", "x.tga", "x.txt", "x", ""):
        with open_picture_file(encoded("JPEG"), name) as image:
            assert image.format == "JPEG"


def test_a_format_without_a_mark_needs_its_ending():
    with open_picture_file(encoded("TGA"), "x.TGA") as image:
        assert image.format == "TGA"
    for name in ("x.png", "x"):
        with pytest.raises(ValueError, match="it is not a picture"):
            open_picture_file(encoded("TGA"), name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000"])
def test_a_name_without_an_ending_is_judged_by_its_first_bytes(kind):
    assert has_picture(encoded(kind)[:32])


@pytest.mark.parametrize(
    "head", [b"", b"x" * 32, b"%PDF-1.7", b"\x89HDF\r\n\x1a\n", b"RIFF....WAVE"]
)
def test_other_files_are_no_pictures(head):
    assert not has_picture(head)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_pages_and_frames_are_counted(kind):
    one, others = Image.new("L", (4, 4), 0), [Image.new("L", (4, 4), v) for v in (99, 200)]
    for pages, more in ((1, {}), (3, {"save_all": True, "append_images": others})):
        file = io.BytesIO()
        one.save(file, kind, **more)
        with open_picture_file(file.getvalue()) as image:
            assert (has_pages(image), count_pages(image)) == (pages > 1, pages)


def test_the_orientation_of_broken_exif_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    for block, expected in ((exif, 6), (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1", 1)):
        with open_picture_file(encoded("PNG", exif=block)) as image:
            assert orientation(image) == expected


def test_upright_pixels_of_a_tiff_are_not_turned_twice():
    exif = Image.Exif()
    exif[0x0112] = 8
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", exif=exif)
    with open_picture_file(file.getvalue()) as image:
        np.testing.assert_array_equal(formats.upright(image), np.rot90(pixels))
