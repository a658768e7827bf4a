import dataclasses
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax.config import ArraysData, describe_shown, shown_channels
from ddpm_jax.data import arrays, loading, open_source
from ddpm_jax.data.pictures import fit_pixels
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.reports.inspection import inspect

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


def test_any_number_of_bands_is_scaled_band_by_band(tmp_path, caplog):
    flat = np.broadcast_to(np.arange(13, dtype=np.float32) / 12, (7, 9, 20, 13))
    with caplog.at_level(logging.WARNING):
        source = opened(saved(tmp_path, flat), channels=13, range=(0, 1))
    assert source.shape == (4, 5, 13)
    expected = np.broadcast_to(np.arange(13) * 255 / 12, (7, 4, 5, 13))
    np.testing.assert_allclose(whole(source).examples, expected, atol=0.51)
    assert [record.getMessage() for record in caplog.records] == [
        f"arrays of {tmp_path}/x.npy: 7 images of 9×20×13, float32, are reduced to 4×5, "
        "cropped at the edges, rounded to 256 levels from 0 to 1"
    ]


@pytest.mark.parametrize("channels", [1, 2, 5, 13])
def test_bands_of_the_right_shape_are_unchanged(tmp_path, channels, caplog):
    pixels = np.random.default_rng(0).integers(256, size=(9, 4, 5, channels), dtype=np.uint8)
    source = opened(saved(tmp_path, pixels), channels=channels)
    assert isinstance(source, ArraySource)
    np.testing.assert_array_equal(whole(source).examples, pixels)
    assert not caplog.records


def test_a_fourth_band_is_transparency_unless_shown_channels_are_chosen(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(9, 8, 10, 4), dtype=np.uint8)
    path = saved(tmp_path, pixels)
    bands = whole(opened(path, channels=4, show_channels=(3, 2, 1))).examples
    for band in range(4):
        one = np.stack([fit_pixels(each[..., band], (4, 5, 1)) for each in pixels])
        np.testing.assert_array_equal(bands[..., band : band + 1], one)
    assert (whole(opened(path, channels=4)).examples != bands).any()


ORDERS = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 3, 1, 2)}


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("large", [False, True])
def test_axes_may_be_in_another_order(tmp_path, axes, large, monkeypatch):
    if large:
        monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 100)
    source = opened(saved(tmp_path, PIXELS.transpose(ORDERS[axes])), axes=axes)
    assert source.streams == large
    np.testing.assert_array_equal(whole(source).examples, PIXELS)


@pytest.mark.parametrize(
    ("axes", "image"),
    [("HWC", PIXELS[0]), ("CHW", np.moveaxis(PIXELS[0], -1, 0)), ("HW", PIXELS[0, ..., 0])],
)
def test_a_single_image_is_an_example(tmp_path, axes, image):
    channels = 1 if axes == "HW" else 3
    path = saved(tmp_path, image)
    found = opened(path, axes=axes, channels=channels)
    np.testing.assert_array_equal(whole(found).examples, PIXELS[:1, ..., :channels])
    np.save(tmp_path / "labels.npy", np.array([7]))
    named = opened(path, axes=axes, channels=channels, labels=str(tmp_path / "labels.npy"))
    assert named.class_names == ("7",)
    with pytest.raises(UserError, match=r"which may be|data\.axes HW"):
        opened(path, channels=channels)


DOUBTFUL = {
    (64, 64, 3): ("NHW", "HWC"),
    (3, 64, 64): ("NHW", "CHW"),
    (64, 64, 13): ("NHW", "HWC"),
    (13, 64, 64): ("NHW", "CHW"),
    (9, 13, 8, 13): ("NHWC", "NCHW"),
    (9, 13, 8, 8): ("NHWC", "NCHW"),
}


@pytest.mark.parametrize(("shape", "axes"), DOUBTFUL.items())
def test_a_shape_of_two_meanings_names_the_setting_that_answers(tmp_path, shape, axes):
    path = saved(tmp_path, np.full(shape, 200, np.uint8))
    with pytest.raises(UserError) as caught:
        opened(path, channels=13)
    assert all(f"(data.axes {each})" in str(caught.value) for each in axes)
    assert "\n" not in str(caught.value)


def test_labels_say_what_the_first_axis_is(tmp_path):
    images = np.full((9, 4, 3), 200, np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(9))
    source = opened(tmp_path / "x.npz", channels=1)
    assert (len(source), len(source.class_names)) == (9, 9)


def test_yes_and_no_are_white_and_black(tmp_path):
    masks = np.random.default_rng(0).integers(2, size=(9, 4, 5)).astype(bool)
    found = whole(opened(saved(tmp_path, masks), channels=1)).examples
    np.testing.assert_array_equal(found[..., 0], np.where(masks, 255, 0))


@pytest.mark.parametrize("greatest", [0, 1, 16, 31, 32, 255])
def test_whole_numbers_far_below_white_are_asked_about(tmp_path, greatest):
    path = saved(tmp_path, np.full((9, 4, 5), greatest, np.uint8))
    if greatest > 31:
        assert whole(opened(path, channels=1)).examples.max() == greatest
        return
    with pytest.raises(UserError, match=f"is {greatest} of 255; give 0 255 to keep them dark"):
        opened(path, channels=1)
    assert whole(opened(path, channels=1, range=(0, 255))).examples.max() == greatest
    stretched = whole(opened(path, channels=1, range=(0, max(greatest, 1))))
    assert stretched.examples.max() == (255 if greatest else 0)


def test_the_greatest_level_is_searched_in_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_CHUNK_BYTES", 40)
    levels = np.full((9, 4, 5), 3, np.uint8)
    levels[-1, -1, -1] = 200
    found = whole(opened(saved(tmp_path, levels), channels=1)).examples
    np.testing.assert_array_equal(found[..., 0], levels)


def test_lost_colours_and_transparency_are_told(tmp_path, caplog):
    pixels = np.random.default_rng(0).integers(256, size=(9, 4, 5, 4), dtype=np.uint8)
    told = {
        1: "are drawn on white where transparent, turned from colour to grey",
        3: "are drawn on white where transparent",
    }
    for channels, words in told.items():
        opened(saved(tmp_path, pixels), channels=channels)
        assert caplog.records[-1].getMessage().endswith(f"images of 4×5×4, uint8, {words}")


LABELS = {
    "numbers": (np.array([7, 3, 3, 9, 7, 7]), ("3", "7", "9"), [1, 0, 0, 2, 1, 1]),
    "a column": (np.array([[7], [3], [3], [9], [7], [7]]), ("3", "7", "9"), [1, 0, 0, 2, 1, 1]),
    "words": (np.array(["b", "a", "b", "a", "a", "b"]), ("a", "b"), [1, 0, 1, 0, 0, 1]),
    "bytes": (np.char.encode([*"éaéaaé"], "utf-8"), ("a", "é"), [1, 0, 1, 0, 0, 1]),
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


def test_points_of_more_numbers_are_drawn_by_two_of_them(tmp_path):
    points = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    data = ArraysData(path=str(saved(tmp_path, points)), holds="points", dimensions=5)
    source = open_source(data)
    assert source.shape == data.example_shape == (5,)
    np.testing.assert_array_equal(whole(source).examples, points)
    assert shown_channels(data) == (0, 1)
    chosen = dataclasses.replace(data, show_channels=(4, 2))
    assert describe_shown(chosen) == (
        "plots show the numbers 4 and 2 of 0 … 4; data.show_channels chooses others"
    )
    found = inspect(dataclasses.replace(chosen, dimensions=5))
    np.testing.assert_array_equal(found.preview, points[:, [4, 2]])


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
    with pytest.raises(UserError, match=r"can't be read \(its .* need more than its 153 bytes\)"):
        opened(path)


def test_what_an_array_is_not_kept_in_is_refused(tmp_path, monkeypatch):
    named = np.zeros(2, [("höhe", "u1")])
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, named, version=(3, 0))
    with pytest.raises(
        UserError, match=r"can't be read \(its format 3\.0 is for structured arrays"
    ):
        opened(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", images=PIXELS)
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 100)
    with pytest.raises(
        UserError, match=r"images in .*x\.npz has 0\.0 GiB; save it alone as a \.npy"
    ):
        opened(tmp_path / "x.npz")
