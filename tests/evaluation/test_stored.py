"""Samples, pictures and statistics that are there already."""

import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import ArraysData, DigitsData, TfdsData, dumps, load_file
from ddpm_jax.data.pixels import to_pixels
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.sets import ExampleSet, Statistics
from ddpm_jax.evaluation.stored import arrays_of, find_reference, open_samples, read_statistics
from ddpm_jax.files import sha256, storage_path
from ddpm_jax.sampling.shards import sample_pixels, sample_shards
from tests.sampling.test_formats import NAMES, NUM, run_of, truth

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 4, 3), np.uint8)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("DDPM_JAX_CACHE", "")


def write_pictures(folder, pixels, name="{:05}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, each in enumerate(pixels):
        Image.fromarray(each.squeeze()).save(folder / name.format(index))
    return folder


def test_every_form_of_the_same_samples_is_read_alike(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", PIXELS)
    np.savez(tmp_path / "other.npz", arr_0=PIXELS, arr_1=np.arange(12) % 3)
    unit = (PIXELS.astype(np.float64) / 127.5 - 1).astype(np.float32)
    np.savez(tmp_path / "own.npz", samples=unit, labels=(np.arange(12) % 3).astype(np.int32))
    sets = [open_samples(path) for path in (pictures, tmp_path / "other.npz", tmp_path / "own.npz")]
    assert [each.source.shape for each in sets] == 3 * [(6, 4, 3)]
    assert [each.source.class_names for each in sets] == [(), *2 * [("0", "1", "2")]]
    for each in sets[1:]:
        batch = each.source.gather(np.array([1, 5, 3]))
        np.testing.assert_array_equal(batch.labels, [1, 2, 0])
    names = ["coverage", "frechet_distance"]
    found = [evaluate(each, names, reference=sets[0], features="pixels").values for each in sets]
    assert found[0]["coverage"] == 1
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(found[2], abs=1e-6)


def test_grey_pictures_have_one_channel(tmp_path):
    found = open_samples(write_pictures(tmp_path / "grey", PIXELS[..., :1]))
    assert found.source.shape == (6, 4, 1)
    np.testing.assert_array_equal(found.source.gather(np.arange(12)).examples, PIXELS[..., :1])


def test_pictures_of_several_sizes_are_refused(tmp_path):
    folder = write_pictures(tmp_path / "mixed", PIXELS)
    write_pictures(folder, PIXELS[:1, :3], "odd{}.png")
    with pytest.raises(UserError, match=r"mixed: odd0.png is 3×4, and most are 6×4; give one size"):
        open_samples(folder)


def test_what_holds_no_samples_is_refused(tmp_path):
    def refused(name, match, **arrays):
        path = tmp_path / name
        if arrays:
            np.savez(path, **arrays)
        with pytest.raises(UserError, match=match):
            open_samples(path)

    refused("missing.npz", "does not exist; name a file of samples")
    (tmp_path / "text.npz").write_text("no archive")
    refused("text.npz", r"can't be read as a \.npz")
    refused("a.npz", r"has no samples, floats \[N, …\]", images=PIXELS)
    refused("b.npz", r"has no samples, floats \[N, …\]", samples=PIXELS)
    refused("c.npz", "labels that do not fit", samples=np.zeros((3, 2)), labels=np.zeros(2, int))
    refused(
        "d.npz",
        r"arr_0 is \(12, 6\) of uint8; it must be pictures",
        arr_0=PIXELS[:, :, 0, 0],
    )
    refused("missing", "does not exist")
    (tmp_path / "empty").mkdir()
    refused("empty", "no pictures|has none|holds no")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    refused("broken", "none of its 1 pictures can be read")


class Writes:
    """A pickle that would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_never_loaded(tmp_path):
    harmful = np.array([Writes(tmp_path / "written")], dtype=object)
    for name in ("samples", "arr_0", "mu"):
        path = tmp_path / f"{name}.npz"
        np.savez(path, **{name: harmful, "sigma": np.eye(1)})
        with pytest.raises(UserError):
            read_statistics(path) if name == "mu" else open_samples(path)
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Writes(tmp_path / "written")))
    with pytest.raises(UserError):
        open_samples(tmp_path / "plain.npz")
    assert not (tmp_path / "written").exists()


def test_statistics_of_other_tools(tmp_path):
    path = tmp_path / "known.npz"
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    np.savez(path, mu=np.array([1.0, 2.0]), sigma=covariance)
    found = read_statistics(path)
    np.testing.assert_array_equal(found.moments.mean, [1, 2])
    np.testing.assert_array_equal(found.moments.covariance, covariance)
    assert found.described == {"statistics": str(path), "sha256": sha256(path)}


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"mu": np.zeros(3)}, "can't be read as statistics mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"mu \(3,\) and sigma \(2, 2\); they must be"),
        ({"mu": np.zeros((3, 1)), "sigma": np.eye(3)}, r"they must be \[D\] and \[D, D\]"),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "not finite; compute them again"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), np.inf)}, "not finite; compute them again"),
    ],
)
def test_statistics_that_are_none_are_refused(arrays, match, tmp_path):
    np.savez(tmp_path / "known.npz", **arrays)
    with pytest.raises(UserError, match=match):
        read_statistics(tmp_path / "known.npz")


def test_what_a_reference_stands_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_reference("mnist:3.0.1", (28, 20, 1)) == TfdsData(
        name="mnist:3.0.1", image_size=(28, 20), channels=1
    )
    np.save("a.npy", np.zeros((3, 9, 8, 5)))
    five = find_reference("a.npy", (9, 8, 5))
    assert five == ArraysData(path="a.npy", image_size=(9, 8), channels=5)
    assert find_reference("digits", (8, 8, 1)) == DigitsData()
    assert find_reference("swiss_roll", (2,)) == load_file("swiss_roll").data
    assert find_reference("a.npy", (2,)) == ArraysData(path="a.npy", holds="points")
    run = tmp_path / "digits"
    run.mkdir()
    (run / "config.json").write_text(dumps(load_file("swiss_roll")))
    assert find_reference("digits", (2,)) == load_file("swiss_roll").data
    np.savez("known.npz", mu=np.zeros(2), sigma=np.eye(2))
    assert isinstance(find_reference("known.npz", (2,)), Statistics)
    with pytest.raises(UserError, match="minst does not exist"):
        find_reference("minst", (2,))


# --- what `ddpm sample` writes for others ---------------------------------------------------------


def values_of(samples: ExampleSet) -> dict[str, float]:
    others = np.random.default_rng(7).integers(0, 256, (30, 5, 6, 3), np.uint8)
    reference = ExampleSet(ArraySource(others), {})
    return evaluate(samples, reference=reference, features="pixels").values


@pytest.mark.parametrize("form", ["png", "arr_0", "one file", "a folder without samples.json"])
def test_stored_pixels_are_judged_as_the_nearest_of_the_samples(form, tmp_path):
    path = tmp_path / "x.npz"
    if form == "one file":
        sample_pixels(run_of(), path, NUM)
    else:
        path = tmp_path / "x"
        sample_shards(run_of(), path, NUM, format="arr_0" if form == "arr_0" else "png")
        if form.startswith("a folder"):
            (path / "samples.json").unlink()
    found = open_samples(path)
    pixels = np.asarray(to_pixels(truth()))
    places = np.array([10, 0, 3, 4])
    np.testing.assert_array_equal(found.source.gather(places).examples, pixels[places])
    values = values_of(found)
    assert values == values_of(ExampleSet(ArraySource(pixels), {}))
    assert values != values_of(ExampleSet(ArraySource(truth()), {}))
    if not form.startswith("a folder"):
        assert found.source.class_names == NAMES
        np.testing.assert_array_equal(found.source.gather(places).labels, [0, 0, 3, 4])


def test_arrays_of_other_tools_are_read(tmp_path):
    pixels = to_pixels(truth())
    np.savez(tmp_path / "x.npz", pixels, np.arange(NUM) % 3)
    found = open_samples(tmp_path / "x.npz").source
    np.testing.assert_array_equal(found.gather(np.arange(NUM)).examples, pixels)
    assert found.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(found.gather(np.array([4, 2])).labels, [1, 2])


ZEROS = np.zeros((4, 5, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ([ZEROS[..., 0]], "arr_0 is (4, 5, 6) of uint8; it must be"),
        ([ZEROS.astype(np.float32)], "arr_0 is (4, 5, 6, 3) of float32; it must be"),
        ([ZEROS, np.arange(3)], "has labels that do not fit its samples"),
        ([ZEROS, np.zeros(4)], "has labels that do not fit its samples"),
        ([ZEROS, np.arange(4) - 2], "has labels that do not fit its samples"),
        ([np.array([{}] * 4)], "x.npz can't be read (Object arrays cannot be loaded"),
    ],
)
def test_other_arrays_are_refused(arrays: Any, says, tmp_path):
    np.savez(tmp_path / "x.npz", *arrays)
    with pytest.raises(UserError) as error:
        open_samples(tmp_path / "x.npz")
    assert says in str(error.value)


def test_names_that_do_not_fit_the_labels_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", ZEROS, np.arange(4), class_names=np.array(["a", "b"]))
    with pytest.raises(UserError, match="has class_names that do not fit its labels"):
        open_samples(tmp_path / "x.npz")


def test_a_member_that_is_no_array_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("mu.npy", b"\x93NUMPY\x01\x00nothing")
        archive.writestr("sigma.npy", b"")
    with pytest.raises(UserError, match=r"x\.npz can't be read as a \.npz \(.*\); write it again"):
        arrays_of(storage_path(tmp_path / "x.npz"))
