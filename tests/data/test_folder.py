import dataclasses
import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import cli
from ddpm_jax.config import FolderData
from ddpm_jax.data import count_examples, loading, open_source
from ddpm_jax.data.folder import find_classes
from ddpm_jax.data.source import ArraySource, StreamSource
from ddpm_jax.errors import UserError

SIZE = (4, 4)


def save(path: Path, level: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)


def config(path: Path, channels: int = 1) -> FolderData:
    return FolderData(path=str(path), image_size=SIZE, channels=channels)  # type: ignore[arg-type]


def levels(source) -> list[int]:
    return source.gather(np.arange(len(source))).examples[:, 0, 0, 0].tolist()


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    save(tmp_path / "dog" / "b.png", 40, (4, 9))
    save(tmp_path / "dog" / "a.png", 30)
    save(tmp_path / "cat" / "deep" / "z.png", 20)
    save(tmp_path / "cat" / "Z.PNG", 10)
    return tmp_path


def test_subfolders_are_classes_in_the_order_of_paths(classes):
    source = open_source(config(classes))
    assert isinstance(source, ArraySource)
    assert source.class_names == ("cat", "dog")
    assert levels(source) == [10, 20, 30, 40]
    np.testing.assert_array_equal(source.gather(np.arange(4)).labels, [0, 0, 1, 1])
    assert count_examples(config(classes)) == 4


def test_streamed_and_in_memory_give_the_same(classes, monkeypatch):
    whole = open_source(config(classes))
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 0)
    stream = open_source(config(classes))
    assert isinstance(stream, StreamSource)
    indices = np.array([3, 0, 3, 1])
    for one, other in zip(whole.gather(indices), stream.gather(indices), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".jfif", ".webp", ".gif", ".tif", ".jp2", ".tga"]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_picture_is_read(tmp_path, suffix, channels):
    save(tmp_path / f"one{suffix}", 128)
    (tmp_path / "notes.txt").write_text("no picture")
    save(tmp_path / ".one.png", 0)
    save(tmp_path / ".trash" / "two.png", 0)
    source = open_source(config(tmp_path, channels))
    assert (len(source), source.shape, source.class_names) == (1, (*SIZE, channels), ())
    batch = source.gather(np.arange(1))
    assert batch.labels is None
    assert np.abs(batch.examples[0, :, :, 0].astype(int) - 128).max() <= 1


def frames(path: Path, *levels: int) -> None:
    first, *others = [Image.new("L", SIZE, level) for level in levels]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=others)


@pytest.mark.parametrize("limit", [None, 0])
def test_all_pages_become_examples_if_asked(tmp_path, monkeypatch, limit):
    if limit is not None:
        monkeypatch.setattr(loading, "IN_MEMORY_BYTES", limit)
    frames(tmp_path / "cat" / "a.tif", 10, 20, 30)
    frames(tmp_path / "cat" / "b.png", 40)
    frames(tmp_path / "dog" / "c.gif", 50, 60)
    first = open_source(config(tmp_path))
    assert levels(first) == [10, 40, 50]
    pages = open_source(dataclasses.replace(config(tmp_path), pages="all"))
    assert levels(pages) == [10, 20, 30, 40, 50, 60]
    np.testing.assert_array_equal(pages.gather(np.arange(6)).labels, [0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("limit", [None, 0])
def test_all_that_is_left_out_or_changed_is_one_line(tmp_path, monkeypatch, caplog, limit):
    if limit is not None:
        monkeypatch.setattr(loading, "IN_MEMORY_BYTES", limit)
    monkeypatch.setattr(loading, "MIN_CACHE_SECONDS", 0.0)
    save(tmp_path / "same.png", 200)
    save(tmp_path / "small.png", 200, (2, 2))
    save(tmp_path / "wide.jpg", 200, (16, 8))
    frames(tmp_path / "film.tif", 100, 200)
    Image.new("I;16", SIZE, 60_000).save(tmp_path / "deep.png")
    Image.new("RGBA", SIZE, (9, 9, 9, 0)).save(tmp_path / "clear.png")
    (tmp_path / "torn.png").write_text("no")
    for name in ("a.txt", "b.txt", ".hidden", "Thumbs.db"):
        (tmp_path / name).write_text("no")
    expected = (
        f"pictures in {tmp_path}: 1 of 7 can't be read and are left out (torn.png): "
        "it is not a picture: 1; 4 other files left out: 2 .txt, 1 hidden, 1 of the system; "
        "changed: 1 cropped at the edges, 1 drawn on white where transparent, 1 enlarged to 4×4, "
        "1 read without the pages or frames after the first, 1 reduced to 4×4, "
        "1 rounded to 256 levels, 1 turned from colour to grey"
    )
    for _ in range(2):  # The second time the pass comes from the cache.
        with caplog.at_level(logging.WARNING):
            open_source(config(tmp_path))
        assert [record.getMessage() for record in caplog.records] == [expected]
        caplog.clear()


def test_nothing_is_said_where_nothing_changes(classes, caplog):
    save(classes / "dog" / "b.png", 40)
    with caplog.at_level(logging.WARNING):
        open_source(config(classes))
    assert not caplog.records


def test_a_range_maps_levels_of_any_type(tmp_path):
    for name, level in (("a.tif", -1000), ("b.tif", 0), ("c.tif", 1000)):
        Image.new("I", SIZE, level).save(tmp_path / name)
    hounsfield = dataclasses.replace(config(tmp_path), range=(-1000, 1000))
    assert levels(open_source(hounsfield)) == [0, 128, 255]
    for name, level in (("a.tif", 0.0), ("b.tif", 0.25), ("c.tif", 1.0)):
        Image.new("F", SIZE, level).save(tmp_path / name)
    unit = dataclasses.replace(config(tmp_path), range=(0, 1))
    assert levels(open_source(unit)) == [0, 64, 255]


def test_one_example_alone_may_be_dark(tmp_path):
    """12 bits in 16 are in doubt only if no picture of the set has more."""
    Image.new("I;16", SIZE, 4095).save(tmp_path / "dark.png")
    with pytest.raises(UserError, match="4095 of 65535"):
        open_source(config(tmp_path))
    Image.new("I;16", SIZE, 65535).save(tmp_path / "light.png")
    assert levels(open_source(config(tmp_path))) == [16, 255]


def test_loose_pictures_mean_no_classes(classes, caplog):
    save(classes / "cover.png", 15)
    with caplog.at_level(logging.WARNING):
        source = open_source(config(classes))
    assert source.class_names == ()
    assert levels(source) == [10, 20, 15, 30, 40]
    assert "so subfolders are no classes" in caplog.text


def test_a_linked_class_is_followed_and_a_circle_ends(classes, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "x.png", 50)
    (classes / "emu").symlink_to(elsewhere)
    (classes / "dog" / "again").symlink_to(classes)
    source = open_source(config(classes))
    assert levels(source) == [10, 20, 30, 40, 50]
    assert source.class_names == ("cat", "dog", "emu")


def damage(path: Path) -> None:
    """A JPEG that opens but is cut off in the middle."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:2000])


def test_broken_pictures_are_skipped_with_one_warning(classes, caplog, monkeypatch):
    (classes / "cat" / "empty.png").write_bytes(b"")
    (classes / "dog" / "page.jpg").write_text("<html>404</html>")
    damage(classes / "dog" / "torn.jpg")
    for limit in (loading.IN_MEMORY_BYTES, 0):
        monkeypatch.setattr(loading, "IN_MEMORY_BYTES", limit)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            source = open_source(config(classes))
        assert levels(source) == [10, 20, 30, 40]
        np.testing.assert_array_equal(source.gather(np.arange(4)).labels, [0, 0, 1, 1])
        (record,) = caplog.records
        message = record.getMessage()
        assert "\n" not in message
        for part in ("3 of 7 can't be read", "empty.png", "page.jpg", "torn.jpg"):
            assert part in message


def test_a_picture_bomb_is_a_broken_picture(classes, caplog, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    save(classes / "dog" / "bomb.png", 99, (40, 40))
    save(classes / "dog" / "b.png", 40)
    with caplog.at_level(logging.WARNING):
        assert levels(open_source(config(classes))) == [10, 20, 30, 40]
    assert "bomb.png" in caplog.text


@pytest.mark.parametrize("strict", [False, True])
def test_a_picture_lost_while_running_is_replaced_unless_strict(
    classes, strict, monkeypatch, caplog
):
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 0)
    source = open_source(dataclasses.replace(config(classes), strict=strict))
    (classes / "dog" / "a.png").unlink()
    if strict:
        with pytest.raises(UserError, match=r"a\.png.*restore it"):
            source.gather(np.arange(4))
    else:
        with caplog.at_level(logging.WARNING):
            assert levels(source) == [10, 20, 40, 40]
        assert "dog/a.png: No such file" in caplog.text


@pytest.mark.parametrize("limit", [loading.IN_MEMORY_BYTES, 0])
@pytest.mark.parametrize("answer", [errno.EMFILE, errno.EIO])
def test_a_system_that_can_read_no_files_loses_no_pictures(
    classes, answer, limit, monkeypatch, capsys
):
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", limit)
    path, opened = classes / "dog" / "a.png", Path.open

    def failing(self, *args, **options):
        if self == path:
            raise OSError(answer, os.strerror(answer), str(self))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(OSError, match=os.strerror(answer)):
        levels(open_source(config(classes)))
    assert cli.main(["data", "info", str(classes)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ddpm: {path}: {os.strerror(answer)}; ")
    assert said.count("\n") == 1


def test_a_system_that_fails_once_loses_no_pages(tmp_path, monkeypatch):
    frames(tmp_path / "a.tif", 10, 20, 230)
    errors, opened = [OSError(errno.EIO, os.strerror(errno.EIO))], Path.open

    def failing(self, *args, **options):
        if errors and self.name == "a.tif":
            raise errors.pop()
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", failing)
    every = dataclasses.replace(config(tmp_path), pages="all")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        open_source(every)
    assert levels(open_source(every)) == [10, 20, 230]


CLASSES = {
    ("cat/1", "cat/deep/2", "dog/1"): ("cat", "dog"),
    ("pets/cat/1", "pets/cat/2", "pets/dog/1"): ("cat", "dog"),
    ("pets/cat/1", "pets/2"): (),
    ("cat/1", "cat/2"): (),
    ("1", "cat/1"): (),
    ("1",): (),
    ("a/b/c/1", "a/b/d/e/1"): ("c", "d"),
}


@pytest.mark.parametrize(("names", "expected"), CLASSES.items())
def test_the_first_level_with_several_folders_has_the_classes(names, expected):
    found, labels = find_classes(list(names))
    assert found == expected
    assert (labels is None) == (not expected)


def missing(path: Path) -> Path:
    return path / "nowhere"


def a_file(path: Path) -> Path:
    save(path / "one.png", 0)
    return path / "one.png"


def empty(path: Path) -> Path:
    return path


def all_broken(path: Path) -> Path:
    (path / "a.png").write_text("no")
    (path / "b.png").write_text("no")
    return path


MISTAKES = {
    missing: "does not exist; give a folder",
    a_file: "is a file, not a folder; give",
    empty: "has no pictures that can be read; it is empty",
    all_broken: r"2 of 2 pictures.*can't be read; the first is a\.png",
}


@pytest.mark.parametrize(("make", "message"), MISTAKES.items())
def test_mistakes_are_one_line(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        open_source(config(make(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_class_whose_name_is_not_utf_8_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    set_ = tmp_path / os.fsdecode(b"s\xe9t")
    for level, name in enumerate((b"caf\xe9", b"the")):
        save(set_ / os.fsdecode(name) / "a.png", 100 * level)
    for _ in range(2):
        source = open_source(config(set_))
        assert tuple(source.class_names) == ("caf\\xe9", "the")
        assert levels(source) == [0, 100]
