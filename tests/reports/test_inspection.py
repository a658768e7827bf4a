import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import (
    ArraysData,
    DigitsData,
    FolderData,
    PictureData,
    PointsData,
    TfdsData,
)
from ddpm_jax.errors import UserError
from ddpm_jax.reports.inspection import inspect, recognize, summarize


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "cat").mkdir(parents=True)
    (root / "dog").mkdir()
    grey = np.arange(20, 32, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(root / "cat" / "1.png")
    # The same pixels in another file, compressed in another way.
    Image.fromarray(grey).save(root / "dog" / "same.tif")
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(root / "cat" / "deep.png")
    Image.fromarray(np.full((2, 2, 4), 9, np.uint8)).save(root / "dog" / "clear.png")
    Image.fromarray(grey).convert("P").save(root / "dog" / "p.gif")
    (root / "dog" / "torn.jpg").write_text("<html>404</html>")
    return root


def test_a_folder_is_counted_as_it_is(folder):
    found = inspect(FolderData(path=str(folder)))
    assert found.facts == {
        "data": f"pictures in {folder}",
        "examples": 6,
        "classes": {"cat": 2, "dog": 3},
        "sizes": {"3×4": 3, "2×2": 2},
        "channels": {
            "grey": 2,
            "grey in 16 bits": 1,
            "colour with transparency": 1,
            "palette": 1,
        },
        "least_value": 9,
        "greatest_value": 40_000,
        "duplicates": 1,
        "duplicates_as": ["cat/1.png = dog/same.tif"],
        "unreadable": 1,
        "unreadable_as": ["dog/torn.jpg: it is not a picture"],
    }
    assert found.preview.shape == (5, 4, 4, 4)
    assert np.abs(found.preview).max() <= 1
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 1])


def test_a_zip_has_the_same_facts(folder):
    file = folder.with_suffix(".zip")
    with zipfile.ZipFile(file, "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder))
    one, other = (inspect(FolderData(path=str(path))) for path in (folder, file))
    assert one.facts | {"data": ""} == other.facts | {"data": ""}
    np.testing.assert_array_equal(one.preview, other.preview)


def test_progress_ends_at_the_whole():
    calls = []
    inspect(DigitsData(), lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (1797, 1797)


def test_arrays_and_points_are_counted(tmp_path):
    images = np.zeros((5, 3, 2, 1), np.float32)
    images[1:4] += np.arange(1, 4)[:, None, None, None] / 2
    np.savez(tmp_path / "x.npz", images=images, labels=np.array(["a", "b", "b", "b", "a"]))
    found = inspect(ArraysData(path=str(tmp_path / "x.npz")))
    assert found.facts["classes"] == {"a": 2, "b": 3}
    assert found.facts["sizes"] == {"3×2": 5}
    assert found.facts["channels"] == {"1 × float32": 5}
    assert (found.facts["least_value"], found.facts["greatest_value"]) == (0, 1.5)
    assert found.facts["duplicates"] == 1
    assert (found.preview.min(), found.preview[..., :3].max()) == (-1, 1)
    points = inspect(PointsData(size=3000, shape="moons"))
    assert points.facts["classes"] == {"upper": 1500, "lower": 1500}
    assert points.preview.shape == (2000, 2)
    assert inspect(PictureData()).facts["sizes"] == {"427×640": 1}


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(tmp_path, wrong):
    images = np.linspace(-1, 1, 3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    images[1, 0, 0] = wrong
    np.save(tmp_path / "x.npy", images)
    found = inspect(ArraysData(path=str(tmp_path / "x.npy")))
    assert found.facts["greatest_value"] == str(wrong)
    assert np.isfinite(found.preview).all()


def test_a_tfds_set_is_counted(tfds_config):
    found = inspect(tfds_config("mnist", "train[:50]"))
    assert found.facts["examples"] == 50
    assert found.facts["sizes"] == {"28×28": 50}
    assert found.facts["channels"] == {"grey": 50}
    assert sum(found.facts["classes"].values()) == 50


def test_a_path_or_a_name_becomes_the_config_of_its_kind(folder, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(1))
    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    assert recognize(str(folder)) == FolderData(path=str(folder))
    assert isinstance(recognize(str(tmp_path / "x.npy")), ArraysData)
    assert isinstance(recognize(str(tmp_path / "x.png")), PictureData)
    assert recognize("mnist", "test", "here") == TfdsData(
        name="mnist", split="test", data_dir="here"
    )
    assert recognize("mnist:3.0.1") == TfdsData(name="mnist:3.0.1")
    for missing in (str(tmp_path / "gone"), "./gone", "gone.zip"):
        with pytest.raises(UserError, match="does not exist; name a folder"):
            recognize(missing)


def test_long_facts_are_cut_short_in_the_table():
    facts = {"classes": {str(i): 1000 for i in range(30)}, "same": ["a = b"], "examples": 3}
    table = summarize(facts)
    assert table["classes"].startswith("0: 1,000, 1: 1,000")
    assert table["classes"].endswith("9: 1,000, … (20 more)")
    assert (table["same"], table["examples"]) == ("a = b", 3)
