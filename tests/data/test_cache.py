import logging
import os
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data.cache import Origin, read_cache, write_cache
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
