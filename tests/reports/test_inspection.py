import zipfile
from contextlib import suppress
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
)
from ddpm_jax.data import open_source
from ddpm_jax.data.formats import suffixes
from ddpm_jax.errors import UserError
from ddpm_jax.reports.inspection import inspect, summarize


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
        "files": 6,
        "endings": {".png": 3, ".tif": 1, ".gif": 1, ".jpg": 1},
        "left_out": {},
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


def test_the_preview_of_bands_shows_the_chosen_ones(tmp_path):
    bands = np.zeros((9, 6, 7, 5), np.float32) + np.arange(5, dtype=np.float32)
    np.save(tmp_path / "x.npy", bands)
    for chosen, shown in ((None, (0, 1, 2)), ((4, 3, 0), (4, 3, 0)), ((2,), (2, 2, 2))):
        config = ArraysData(path=str(tmp_path / "x.npy"), channels=5, show_channels=chosen)
        found = inspect(config)
        assert found.facts["channels"] == {"5 × float32": 9}
        assert found.facts["shown"].startswith("pictures show channel")
        levels = np.array(shown) / 4 * 2 - 1
        np.testing.assert_allclose(
            found.preview[..., :3], np.broadcast_to(levels, (9, 7, 7, 3)), atol=0.01
        )


def test_levels_in_doubt_are_shown_stretched(tmp_path):
    ramp = np.linspace(-1000, 1000, 16).astype(np.int32).reshape(4, 4)
    Image.fromarray(ramp).save(tmp_path / "ct.tif")
    found = inspect(FolderData(path=str(tmp_path)))
    assert (found.facts["least_value"], found.facts["greatest_value"]) == (-1000, 1000)
    assert found.facts["channels"] == {"grey in 32 bits": 1}
    grey = found.preview[0, ..., 0]
    assert (grey.min(), grey.max()) == (-1, 1)


# --- a folder of everything -----------------------------------------------------------------------

FOREIGN = {
    "notes.txt": b"a text",
    "table.csv": b"1,2",
    "page.html": b"<html>404</html>",
    "list.json": b"[]",
    "photo.heic": b"\0\0\0\x18ftypheic" + bytes(99),
    "drawing.svg": b"<svg/>",
    "raw.dng": b"II*\0" + bytes(99),
    "scan.dcm": bytes(128) + b"DICM",
    "set.zip": b"PK\x05\x06" + bytes(18),
    "set.tar.gz": b"\x1f\x8b",
    "film.mp4": b"\0\0\0\x18ftypmp42",
    "array.npy": b"\x93NUMPY",
    "README": b"about these pictures",
    "noise": bytes(range(256)),
    "Thumbs.db": b"x",
    "desktop.ini": b"x",
    ".DS_Store": b"x",
    "._1.png": b"x",
    ".thumbnails/1.png": b"x",
    "@eaDir/1.png/THUMB.jpg": b"x",
    "__MACOSX/._1.jpg": b"x",
}
BROKEN = {"empty.png": b"", "torn.jpg": b"\xff\xd8\xff\xe0", "page.webp": b"<html>404</html>"}


def written(folder: Path) -> list[Path]:
    """Writes a picture in every format that Pillow can write, and returns their files."""
    Image.init()
    endings = {kind: ending for ending, kind in sorted(Image.EXTENSION.items(), reverse=True)}
    grey = Image.fromarray(np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8))
    for kind in sorted(Image.SAVE):
        path = folder / f"{kind.lower()}{endings.get(kind, '.spider')}"
        for mode in ("RGB", "L", "P", "1", "F"):
            with suppress(OSError, ValueError, KeyError):
                grey.convert(mode).save(path, kind)
                break
        else:  # BUFR, GRIB, HDF5 and WMF need a program of their own.
            path.write_bytes(b"GRIB" + bytes(99))
    return list(folder.iterdir())


# Pillow will drop some of its formats one day, and says so.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_data_info_accounts_for_every_file_of_forty_kinds(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    kinds = written(root)
    total = len(kinds) + len(FOREIGN) + len(BROKEN) + 2
    for name, data in (FOREIGN | BROKEN).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    frames[0].save(root / "pages.tif", save_all=True, append_images=frames[1:])
    frames[1].save(root / "nameless", "PNG")
    facts = inspect(FolderData(path=str(root))).facts
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) == total > 50
    assert len({path.suffix or path.name for path in files}) >= 40
    assert facts["files"] == facts["examples"] + sum(facts["left_out"].values()) == total
    assert all(f"{why}: " in summarize(facts)["left_out"] for why in facts["left_out"])
    assert sum(facts["endings"].values()) == facts["examples"]
    assert sum(facts["sizes"].values()) + facts["unreadable"] == facts["examples"]
    assert facts["files_with_pages"] == {"files": 1, "pages": 2}
    assert facts["unreadable"] == len(BROKEN)
    assert {name.split(":")[0] for name in facts["unreadable_as"]} == set(BROKEN)
    # What Pillow writes and reads itself is an example, and nothing else is.
    own = {path.suffix for path in kinds if path.suffix in suffixes()}
    assert len(own) > 15
    assert set(facts["endings"]) == own | {Path(name).suffix for name in BROKEN} | {".tif", "none"}
    assert {".pdf", ".eps", ".h5", ".txt", ".dng", ".palm"} <= set(facts["left_out"])
    assert facts["left_out"]["without an ending"] == 2
    # SPIDER's levels are floats: training asks what they mean, as it must.
    with pytest.raises(UserError, match=r"spider\.spider has floating-point levels"):
        open_source(FolderData(path=str(root), image_size=(8, 8)))
    (root / "spider.spider").unlink()
    source = open_source(FolderData(path=str(root), image_size=(8, 8)))
    assert len(source) == facts["examples"] - facts["unreadable"] - 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(tmp_path, wrong):
    images = np.linspace(-1, 1, 3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    images[1, 0, 0] = wrong
    np.save(tmp_path / "x.npy", images)
    found = inspect(ArraysData(path=str(tmp_path / "x.npy"), axes="NHW"))
    assert found.facts["greatest_value"] == str(wrong)
    assert np.isfinite(found.preview).all()


def test_a_tfds_set_is_counted(tfds_config):
    found = inspect(tfds_config("mnist", "train[:50]"))
    assert found.facts["examples"] == 50
    assert found.facts["sizes"] == {"28×28": 50}
    assert found.facts["channels"] == {"grey": 50}
    assert sum(found.facts["classes"].values()) == 50


def test_long_facts_are_cut_short_in_the_table():
    facts = {"classes": {str(i): 1000 for i in range(30)}, "same": ["a = b"], "examples": 3}
    table = summarize(facts)
    assert table["classes"].startswith("0: 1,000, 1: 1,000")
    assert table["classes"].endswith("9: 1,000, … (20 more)")
    assert (table["same"], table["examples"]) == ("a = b", 3)
