import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax.config import ArraysData
from ddpm_jax.data import loading, open_source
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError

PIXELS = np.random.default_rng(0).integers(256, size=(6, 4, 5, 3), dtype=np.uint8)
SIZE: Any = {"image_size": (4, 5)}


def opened(path: Path, **settings: Any) -> Any:
    return open_source(ArraysData(path=str(path), **(SIZE | settings)))


def whole(source: Any) -> Any:
    return source.gather(np.arange(len(source)))


def saved(folder: Path, array: Any, name: str = "x.npy") -> Path:
    np.save(folder / name, array)
    return folder / name


def test_images_of_the_right_shape_are_unchanged(tmp_path):
    source = opened(saved(tmp_path, PIXELS))
    assert (source.shape, source.class_names, source.streams) == ((4, 5, 3), (), False)
    np.testing.assert_array_equal(whole(source).examples, PIXELS)
    assert whole(source).labels is None


def test_grey_images_may_leave_their_channel_out(tmp_path):
    grey = PIXELS[..., 0]
    source = opened(saved(tmp_path, grey), channels=1)
    np.testing.assert_array_equal(whole(source).examples, grey[..., None])
    colour = opened(saved(tmp_path, grey))
    np.testing.assert_array_equal(whole(colour).examples, np.repeat(grey[..., None], 3, axis=3))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_is_mapped_and_gives_the_same(tmp_path, monkeypatch, order):
    path = saved(tmp_path, np.asarray(PIXELS, order=order))
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 100)
    source = opened(path)
    assert isinstance(source, ArraySource)
    assert isinstance(source.examples, np.memmap)
    assert source.streams
    np.testing.assert_array_equal(whole(source).examples, PIXELS)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("dtype", "span"),
    [("float32", (0, 1)), ("float64", (-1, 1)), ("float16", (0, 1)), ("uint16", (0, 65535))],
)
def test_numbers_are_scaled_from_their_range_to_pixels(tmp_path, monkeypatch, dtype, span, large):
    low, high = span
    path = saved(tmp_path, (PIXELS / 255 * (high - low) + low).astype(dtype))
    if large:
        monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 100)
    found = whole(opened(path, range=span)).examples
    np.testing.assert_array_equal(found, PIXELS)


def test_black_and_white_may_change_places(tmp_path):
    found = whole(opened(saved(tmp_path, PIXELS), range=(255, 0))).examples
    np.testing.assert_array_equal(found, 255 - PIXELS)


def test_another_size_is_scaled_and_cropped_as_a_picture(tmp_path):
    flat = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None, None] * 40, (6, 9, 20, 1))
    source = opened(saved(tmp_path, flat), channels=4)
    assert source.shape == (4, 5, 4)
    examples = whole(source).examples
    np.testing.assert_array_equal(examples[:, 0, 0, 0], np.arange(6) * 40)
    assert (examples[..., 3] == 255).all()


LABELS = {
    "numbers": (np.array([7, 3, 3, 9, 7, 7]), ("3", "7", "9"), [1, 0, 0, 2, 1, 1]),
    "a column": (np.array([[7], [3], [3], [9], [7], [7]]), ("3", "7", "9"), [1, 0, 0, 2, 1, 1]),
    "words": (np.array(["b", "a", "b", "a", "a", "b"]), ("a", "b"), [1, 0, 1, 0, 0, 1]),
    "yes and no": (np.array([1, 0, 1, 1, 1, 1], bool), ("False", "True"), [1, 0, 1, 1, 1, 1]),
}


@pytest.mark.parametrize("case", LABELS)
def test_the_classes_are_the_distinct_labels(tmp_path, case):
    labels, names, numbers = LABELS[case]
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=labels)
    np.savez_compressed(tmp_path / "y.npz", a=PIXELS, b=PIXELS, c=labels)
    sources = [
        opened(tmp_path / "x.npz"),
        opened(tmp_path / "y.npz", examples="b", labels="c"),
        opened(saved(tmp_path, PIXELS), labels=str(saved(tmp_path, labels, "labels.npy"))),
    ]
    for source in sources:
        assert source.class_names == names
        assert whole(source).labels.dtype == np.int32
        np.testing.assert_array_equal(whole(source).labels, numbers)
        np.testing.assert_array_equal(whole(source).examples, PIXELS)


def test_points_keep_their_scale(tmp_path):
    points = np.random.default_rng(0).normal(size=(9, 2))
    source = opened(saved(tmp_path, points), holds="points")
    assert (source.shape, whole(source).examples.dtype) == ((2,), np.float32)
    np.testing.assert_array_equal(whole(source).examples, points.astype(np.float32))


def test_drawn_samples_can_be_trained_on(tmp_path):
    """`ddpm sample --output x.npz` writes floats in the network's range, and labels."""
    samples = (PIXELS / 127.5 - 1).astype(np.float32)
    np.savez_compressed(tmp_path / "x.npz", samples=samples, labels=np.arange(6, dtype=np.int32))
    source = opened(tmp_path / "x.npz", range=(-1, 1))
    np.testing.assert_array_equal(whole(source).examples, PIXELS)
    assert len(source.class_names) == 6


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def objects(folder: Path) -> Path:
    np.save(folder / "x.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    return folder / "x.npy"


def objects_in_npz(folder: Path) -> Path:
    np.savez(folder / "x.npz", x=np.array([Trap()], dtype=object))
    return folder / "x.npz"


def bare_pickle(folder: Path) -> Path:
    (folder / "x.npy").write_bytes(pickle.dumps(Trap()))
    return folder / "x.npy"


def member_pickle(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Trap()))
    return folder / "x.npz"


@pytest.mark.parametrize("make", [objects, objects_in_npz, bare_pickle, member_pickle])
def test_nothing_is_unpickled(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    with pytest.raises(UserError, match="can't be read") as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_header_with_a_false_size_takes_no_memory(tmp_path):
    path = saved(tmp_path, np.zeros((1, 4, 4), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(1, 4, 4), ", b"(9999999999, 4, 4), ")[: len(whole) + 9])
    with pytest.raises(UserError, match="can't be read"):
        opened(path)
