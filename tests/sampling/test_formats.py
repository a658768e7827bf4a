"""Folders of samples in every format: what lies in them, and what is read back."""

import io
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import ArraysData, PointsData, override
from ddpm_jax.data.pixels import to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.stored import open_samples
from ddpm_jax.runtime import distributed
from ddpm_jax.sampling.files import read_pixels
from ddpm_jax.sampling.formats import FORMATS
from ddpm_jax.sampling.guides import NO_GUIDES
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.sampling.shards import ShardSource, sample_pixels, sample_shards
from tests.tiny import TINY, changed

NUM, SIZE = 11, 4
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def truth(num=NUM, shape=(5, 6, 3)) -> np.ndarray:
    """Sample i is the same in any draw; some values lie outside of [-1, 1], some between pixels."""
    draws = [np.random.default_rng(i).uniform(-1.2, 1.2, shape) for i in range(num)]
    return np.stack(draws).astype(np.float32)


def run_of(shape=(5, 6, 3), data=None, classes=10, shown=None) -> Any:
    """A run that draws `truth`; `first` keeps what it was asked for."""
    if data is None:
        data = ArraysData(path="x", image_size=shape[:2], channels=shape[2], show_channels=shown)
    asked: list[int] = []

    def sample(num, *, seed=0, first=0, labels=None, **options):
        asked.append(first)
        samples = truth(first + num, shape)[first:]
        names = () if labels is None else NAMES
        return Samples(
            samples, None if labels is None else np.array(labels), None, None, names, shown
        )

    config = SimpleNamespace(
        data=data,
        sample=changed(TINY, sample={"batch_size": SIZE}).sample,
        model=SimpleNamespace(num_classes=classes),
    )
    return SimpleNamespace(
        config=config,
        step=4,
        name="ema",
        params={},
        num_classes=classes,
        guides=NO_GUIDES,
        class_names=NAMES if classes else (),
        labels=lambda chosen: None if chosen is None else np.asarray(chosen),
        sample=sample,
        prepare=lambda **settings: "a line",
        options=lambda **settings: override(config.sample, settings),
        first=asked,
    )


def read(folder, places=None) -> tuple[np.ndarray, np.ndarray | None]:
    batch = ShardSource(folder).gather(np.arange(NUM) if places is None else places)
    return np.asarray(batch.examples), None if batch.labels is None else np.asarray(batch.labels)


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_folder_gives_back_its_samples_or_their_nearest_pixels(
    format, classes, channels, tmp_path
):
    shape = (5, 6, channels)
    assert sample_shards(run_of(shape, classes=classes), tmp_path, NUM, format=format) == NUM
    samples, labels = read(tmp_path)
    np.testing.assert_array_equal(
        samples, truth(shape=shape) if format == "npz" else to_pixels(truth(shape=shape))
    )
    assert ShardSource(tmp_path).class_names == (NAMES if classes else ())
    if classes:
        np.testing.assert_array_equal(labels, np.arange(NUM) % 10)
    some = np.array([9, 0, 5, 5])
    np.testing.assert_array_equal(read(tmp_path, some)[0], samples[some])


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pictures_are_plain_files_in_order_with_their_labels(channels, mode, tmp_path):
    given = [(7 * i + 3) % 10 for i in range(NUM)]
    sample_shards(run_of((5, 6, channels)), tmp_path, NUM, labels=given, format="png")
    names = [f"{i:06}.png" for i in range(NUM)]
    assert sorted(files(tmp_path)) == [*names, "dataset.json", "samples.json"]
    for name, pixels in zip(names, to_pixels(truth(shape=(5, 6, channels))), strict=True):
        with Image.open(tmp_path / name) as picture:
            assert (picture.format, picture.mode) == ("PNG", mode)
            np.testing.assert_array_equal(np.asarray(picture).reshape(pixels.shape), pixels)
    about = json.loads((tmp_path / "dataset.json").read_text())
    pairs = [[name, label] for name, label in zip(names, given, strict=True)]
    assert about == {"labels": pairs, "class_names": list(NAMES)}
    np.testing.assert_array_equal(read(tmp_path)[1], given)


def test_pictures_show_the_channels_that_were_chosen(tmp_path):
    shape = (5, 6, 13)
    sample_shards(run_of(shape, shown=(4, 2, 0)), tmp_path, NUM, format="png")
    np.testing.assert_array_equal(read(tmp_path)[0], to_pixels(truth(shape=shape)[..., [4, 2, 0]]))


@pytest.mark.parametrize(
    ("format", "run", "says"),
    [
        ("png", run_of(data=PointsData(size=9)), "it holds pictures, and these samples are points"),
        ("arr_0", run_of(data=PointsData(size=9)), "it holds pictures, and these samples are poi"),
        (
            "png",
            run_of((5, 6, 13)),
            "has 1, 3 or 4 channels, and these samples have 13; draw them ",
        ),
        ("png", run_of((5, 6, 2)), "a PNG has 1, 3 or 4 channels, and these samples have 2"),
        ("pgn", run_of(), "format is 'pgn'; it must be one of arr_0, npz, png"),
    ],
)
def test_what_a_format_can_not_hold_is_refused_before_anything_is_drawn(
    format, run, says, tmp_path
):
    with pytest.raises(UserError, match=says):
        sample_shards(run, tmp_path / "new", NUM, format=format)
    assert run.first == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("format", ["png", "arr_0"])
def test_values_that_are_not_finite_are_no_pixels(format, tmp_path):
    run = run_of()
    drawn = run.sample(SIZE)
    drawn.samples[2, 3, 1, 0] = np.nan
    run.sample = lambda num, **options: drawn
    with pytest.raises(UserError, match="some are not finite, and have no pixels"):
        sample_shards(run, tmp_path, SIZE, format=format)
    assert [*files(tmp_path)] == ["samples.json"]


# --- kills, and several processes -----------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_part_is_drawn_again_unless_all_of_it_is_there(format, tmp_path):
    run = run_of()
    sample_shards(run, tmp_path, NUM, format=format)
    whole = files(tmp_path)
    # One file of the first part is cut, one of the last is missing.
    names = sorted(name for name in whole if name.startswith(("0", "samples-")))
    (tmp_path / names[0]).write_bytes(whole[names[0]][:-9])
    (tmp_path / names[-1]).unlink()
    half = {"npz": ".samples-00001.77.npz", "png": ".000005.77.png", "arr_0": ".samples-1.7.npz"}
    (tmp_path / half[format]).write_bytes(b"half")
    foreign = {"._000001.png", "mine.png", ".000005.png", ".samples-best.7.npz", "00001.png"}
    for name in foreign:
        (tmp_path / name).write_bytes(b"not ours")
    run.first.clear()
    sample_shards(run, tmp_path, NUM, format=format)
    assert run.first == [0, 2 * SIZE]
    found = files(tmp_path)
    assert found.keys() == whole.keys() | foreign
    assert {name: found[name] for name in whole} == whole


def test_a_kill_half_way_through_the_pictures_of_a_part_costs_that_part(tmp_path, monkeypatch):
    run, plain = run_of(), Image.Image.save

    def save(self, path, *rest):
        if "000005" in str(path):
            path.write_bytes(b"\x89PNG half")
            raise KeyboardInterrupt
        plain(self, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", save)
        with pytest.raises(KeyboardInterrupt):
            sample_shards(run, tmp_path, NUM, format="png")
    assert not (tmp_path / "000005.png").exists()
    assert not (tmp_path / "dataset.json").exists()
    run.first.clear()
    sample_shards(run, tmp_path, NUM, format="png")
    assert run.first == [SIZE, 2 * SIZE]
    np.testing.assert_array_equal(read(tmp_path)[0], to_pixels(truth()))
    assert len(files(tmp_path)) == NUM + 2


@pytest.mark.parametrize("format", FORMATS)
def test_processes_divide_the_parts(format, tmp_path, monkeypatch):
    """Two of them, one after the other; the second one is told what the first one found."""
    sample_shards(run_of(), tmp_path / "whole", NUM, format=format)
    answers: list[Any] = []

    def announce(make):
        answers.append(make())
        return answers[-1]

    for rank, own in enumerate([[0, 2 * SIZE], [SIZE]]):
        told = iter([*answers])
        broadcast = (lambda make, told=told: next(told)) if rank else announce
        monkeypatch.setattr(distributed, "rank_and_count", lambda rank=rank: (rank, 2))
        monkeypatch.setattr(distributed, "broadcast_from_first", broadcast)
        run = run_of()
        sample_shards(run, tmp_path / "shared", NUM, format=format)
        assert run.first == own
        assert (files(tmp_path / "shared") == files(tmp_path / "whole")) == bool(rank)


def test_a_folder_of_another_format_is_refused(tmp_path):
    sample_shards(run_of(), tmp_path, NUM)
    with pytest.raises(UserError, match="holds samples with format = 'npz', and these have 'png'"):
        sample_shards(run_of(), tmp_path, NUM, format="png")


@pytest.mark.parametrize("name", ["000007.png", "dataset.json", "cat.jpg", "config.json"])
def test_nothing_is_written_among_the_files_of_others(name, tmp_path):
    (tmp_path / name).write_bytes(b"not ours")
    with pytest.raises(UserError, match=rf"has {name}, and no samples\.json: .* choose a new one"):
        sample_shards(run_of(), tmp_path, NUM, format="png")
    assert files(tmp_path) == {name: b"not ours"}


# --- one file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 10])
def test_one_file_for_other_evaluators(classes, tmp_path):
    path = tmp_path / "x.npz"
    assert sample_pixels(run_of(classes=classes), path, NUM) == NUM
    with np.load(path, allow_pickle=False) as found:
        assert list(found) == (["arr_0", "arr_1", "class_names"] if classes else ["arr_0"])
        assert found["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(found["arr_0"], to_pixels(truth()))
        if classes:
            assert found["arr_1"].dtype == np.int64
            np.testing.assert_array_equal(found["arr_1"], np.arange(NUM) % 10)
    np.testing.assert_array_equal(read_pixels(path)["samples"], to_pixels(truth()))
    assert [*files(tmp_path)] == ["x.npz"]


@pytest.mark.parametrize("format", ["npz", "arr_0", "png"])
@pytest.mark.parametrize("labels", [[-1], [3, -1]])
def test_samples_without_a_class_are_read_again_as_unlabelled(labels, format, tmp_path):
    sample_shards(run_of(), tmp_path / "x", NUM, labels=labels, format=format)
    source = ShardSource(tmp_path / "x")
    assert (source.class_names, len(source)) == ((), NUM)
    np.testing.assert_array_equal(source.gather(np.arange(NUM)).labels, np.resize(labels, NUM))
    if format == "arr_0":
        sample_pixels(run_of(), tmp_path / "x.npz", NUM, labels=labels)
        found = open_samples(tmp_path / "x.npz").source
        assert (found.class_names, found.gather(np.arange(2)).labels) == ((), None)


def test_one_file_goes_on_after_a_kill(tmp_path):
    run = run_of()
    plain = run.sample

    def killed(num, *, first=0, **options):
        if first == SIZE:
            raise KeyboardInterrupt
        return plain(num, first=first, **options)

    run.sample = killed
    with pytest.raises(KeyboardInterrupt):
        sample_pixels(run, tmp_path / "x.npz", NUM)
    run.sample = plain
    run.first.clear()
    sample_pixels(run, tmp_path / "x.npz", NUM)
    assert run.first == [SIZE, 2 * SIZE]
    np.testing.assert_array_equal(read_pixels(tmp_path / "x.npz")["samples"], to_pixels(truth()))
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


# --- reading --------------------------------------------------------------------------------------


def picture(mode: str, size: tuple[int, int] = (6, 5)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "name", "content", "says"),
    [
        ("png", "000005.png", picture("L"), "000005.png is 5×6×1, unlike the others"),
        ("png", "000005.png", picture("RGB", (7, 5)), "000005.png is 5×7×3, unlike the others"),
        ("png", "000005.png", picture("P"), "000005.png can't be read (its mode is P)"),
        ("png", "000005.png", b"\x89PNG", "000005.png can't be read"),
        ("png", "000005.png", None, "000005.png does not exist; draw the samples again"),
        ("png", "dataset.json", b"{", "dataset.json can't be read"),
        ("png", "dataset.json", b"[]", "dataset.json can't be read"),
        ("png", "dataset.json", b'{"labels": {}}', "dataset.json can't be read"),
        ("png", "dataset.json", b'{"labels": [["000000.png", -2]]}', "a label is no whole number"),
        ("png", "dataset.json", b'{"labels": [["a", 1]], "class_names": ["b"]}', "do not fit"),
        ("png", "dataset.json", b'{"labels": [["a", 1]]}', "has no label of 000000.png"),
        ("npz", "samples.json", b"{}", "samples.json: num is None; it must be a whole number"),
        ("npz", "samples.json", b'{"num": 9, "batch_size": 0}', "batch_size is 0; it must be at"),
        ("npz", "samples.json", b'{"num": 9, "batch_size": 4, "format": "x"}', "format is 'x'"),
        ("npz", "samples-00001.npz", None, "samples-00001.npz does not exist"),
    ],
)
def test_a_damaged_folder_is_one_line(format, name, content, says, tmp_path):
    sample_shards(run_of(), tmp_path, NUM, format=format)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"shape": (5, 6, 1)}, {"classes": 0}])
def test_parts_that_do_not_fit_together_are_refused(change, tmp_path):
    """NumPy would repeat a grey picture in three channels."""
    sample_shards(run_of(), tmp_path / "a", NUM)
    sample_shards(run_of(**change), tmp_path / "b", NUM)
    (tmp_path / "b/samples-00001.npz").replace(tmp_path / "a/samples-00001.npz")
    with pytest.raises(UserError, match="samples from 4 on are"):
        read(tmp_path / "a")


def test_folders_without_a_format_hold_npz(tmp_path):
    run = run_of()
    sample_shards(run, tmp_path, NUM)
    about = json.loads((tmp_path / "samples.json").read_text())
    assert about.pop("format") == "npz"
    (tmp_path / "samples.json").write_text(json.dumps(about))
    np.testing.assert_array_equal(read(tmp_path)[0], truth())
    run.first.clear()
    sample_shards(run, tmp_path, NUM)
    assert run.first == []


@pytest.mark.parametrize("given", [[], list(range(5))])
def test_labels_are_one_to_all_of_the_samples(given, tmp_path):
    with pytest.raises(UserError, match=f"there are {len(given)} labels for 4 samples"):
        sample_shards(run_of(), tmp_path / "new", 4, labels=given)
    assert not (tmp_path / "new").exists()
