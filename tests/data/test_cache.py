import dataclasses
import functools
import io
import logging
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import ArraysData, FolderData
from ddpm_jax.data import loading, open_source
from ddpm_jax.data.cache import Origin, origin_of, read_cache, write_cache
from ddpm_jax.files import cache_folder

ORIGIN = Origin("pictures x", "as they were")
ARRAYS = {"examples": np.arange(600, dtype=np.uint8).reshape(100, 2, 3), "broken": np.array("[]")}


def kept(cache: Path) -> Path:
    write_cache(ORIGIN, ARRAYS)
    (file,) = cache.iterdir()
    return file


def test_cached_arrays_are_read_back(cache):
    assert read_cache(ORIGIN) is None
    kept(cache)
    found = read_cache(ORIGIN)
    assert found is not None
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_another_state_or_source_is_not_read(cache):
    kept(cache)
    assert read_cache(ORIGIN._replace(state="changed")) is None
    assert read_cache(ORIGIN._replace(source="pictures y")) is None
    write_cache(ORIGIN._replace(state="changed"), ARRAYS)
    assert read_cache(ORIGIN) is None
    assert len(list(cache.iterdir())) == 1


def test_no_flipped_bit_gives_other_arrays(cache):
    file = kept(cache)
    whole = file.read_bytes()
    # Every byte, except a few hundred similar ones in the middle of the pixels.
    places = [i for i in range(len(whole)) if i % 7 == 0 or not 400 < i < 900]
    wrong = 0
    for place in places:
        torn = bytearray(whole)
        torn[place] ^= 1 << (place % 8)
        file.write_bytes(torn)
        found = read_cache(ORIGIN)
        if found is not None and set(found) == set(ARRAYS):
            # Some bytes are never read, such as the times of the zip's entries.
            wrong += any((found[name] != ARRAYS[name]).any() for name in ARRAYS)
    assert wrong == 0


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_torn_file_is_ignored_with_a_warning(cache, caplog, share):
    file = kept(cache)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with caplog.at_level(logging.WARNING):
        assert read_cache(ORIGIN) is None
    (record,) = caplog.records
    assert "is damaged (" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert kept(cache).read_bytes() == whole


def test_nothing_is_unpickled(cache):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(cache / "sprung"),)

    file = kept(cache)
    np.savez(file, state=np.array([Trap()], dtype=object))
    assert read_cache(ORIGIN) is None
    assert list(cache.iterdir()) == [file]


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DDPM_JAX_CACHE", "")
    assert cache_folder() is None
    write_cache(ORIGIN, ARRAYS)
    assert read_cache(ORIGIN) is None
    monkeypatch.delenv("DDPM_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ddpm_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "ddpm_jax"


def _pixel(path: Path, level: int) -> None:
    Image.new("L", (2, 2), level).save(path)


def _as_folder(folder: Path) -> tuple[FolderData, Mapping[Path, Callable[[], object]]]:
    for name in ("a", "b"):
        (folder / name).mkdir()
        _pixel(folder / name / "x.png", 110)
    changes = {path: functools.partial(_pixel, path, 120) for path in folder.rglob("*.png")}
    return FolderData(path=str(folder), image_size=(2, 2), channels=1), changes


def _as_zip(folder: Path) -> tuple[FolderData, Mapping[Path, Callable[[], object]]]:
    path = folder / "x.zip"

    def pack(level: int) -> None:
        picture = io.BytesIO()
        Image.new("L", (2, 2), level).save(picture, "BMP")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/x.bmp", picture.getvalue())

    pack(110)
    return FolderData(path=str(path), image_size=(2, 2), channels=1), {path: lambda: pack(120)}


def _as_arrays(folder: Path) -> tuple[ArraysData, Mapping[Path, Callable[[], object]]]:
    x, y = folder / "x.npy", folder / "y.npy"
    np.save(x, np.zeros((4, 2, 2)))
    np.save(y, np.arange(4) % 2)
    config = ArraysData(path=str(x), labels=str(y), range=(0.0, 1.0), image_size=(2, 2), channels=1)
    return config, {
        x: lambda: np.save(x, np.ones((4, 2, 2))),
        y: lambda: np.save(y, 1 - np.arange(4) % 2),
    }


def _as_npz(folder: Path) -> tuple[ArraysData, Mapping[Path, Callable[[], object]]]:
    path = folder / "x.npz"

    def save(first: int) -> None:
        labels = (first + np.arange(4)) % 2
        np.savez(path, x=np.zeros((4, 2, 2)), labels=labels)

    save(0)
    config = ArraysData(path=str(path), range=(0.0, 1.0), image_size=(2, 2), channels=1)
    return config, {path: lambda: save(1)}


@pytest.mark.parametrize("make", [_as_folder, _as_zip, _as_arrays, _as_npz])
def test_a_change_of_any_file_that_it_was_made_from_is_seen(make, cache, tmp_path, monkeypatch):
    """The file keeps its size and its time, as after a copy that preserves them."""
    monkeypatch.setattr(loading, "MIN_CACHE_SECONDS", 0.0)
    config, changes = make(tmp_path)

    def everything() -> list[list]:
        source = open_source(config)
        batch = source.gather(np.arange(len(source)))
        return [np.asarray(batch.examples).tolist(), np.asarray(batch.labels).tolist()]

    for path, change in changes.items():
        before = everything()
        (file,) = cache.iterdir()
        kept, size = file.read_bytes(), path.stat().st_size
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        assert everything() == before
        assert file.read_bytes() == kept
        change()
        os.utime(path, ns=times)
        assert path.stat().st_size == size
        assert everything() != before, path


def test_what_another_decoder_or_another_setting_gave_is_not_read(cache, tmp_path, monkeypatch):
    config, _ = _as_arrays(tmp_path)

    def origin(config: ArraysData) -> Origin:
        return origin_of(config, tmp_path, [tmp_path / "x.npy"])

    write_cache(origin(config), ARRAYS)
    settings = {"range": (0.0, 2.0), "examples": "x", "crop_from": (4, 4), "channels": 3}
    for name, value in settings.items():
        assert read_cache(origin(dataclasses.replace(config, **{name: value}))) is None, name
    assert read_cache(origin(dataclasses.replace(config, flip=True))) is not None
    monkeypatch.setattr("ddpm_jax.data.cache._decoder", lambda: "another")
    assert read_cache(origin(config)) is None
