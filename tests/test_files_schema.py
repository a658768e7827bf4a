"""Files have exactly the keys that the README of the package documents, and so have events."""

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import cli
from ddpm_jax.config import SampleConfig
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.run import load
from ddpm_jax.sampling.shards import sample_pixels, sample_shards
from ddpm_jax.training.train import train
from tests.tiny import TINY, changed

pytestmark = pytest.mark.usefixtures("one_device")

PACKAGE = Path(ddpm_jax.__file__).parent
FILES = (PACKAGE / "README.md").read_text().split("\n## Files\n")[1]


def documented(heading: str) -> dict[str, str]:
    """The table below a heading: the first column's names, without backticks, to the second."""
    section = FILES.split(f"\n### `{heading}`\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ?(.*)\|$", section, re.MULTILINE)
    assert rows
    return {name: text.strip() for name, text in rows}


def event_keys() -> dict[str, set[str]]:
    table = documented("events.jsonl")
    return {name: {"step", "event", *re.findall("`([^`]+)`", keys)} for name, keys in table.items()}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of four steps that started twice, the second time with another learning rate."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = {"steps": 2, "log_every": 1, "save_every": 2, "preview_every": None}
    validation = {"share": 0.01, "every": 2, "keep_best": "validation_loss"}
    config = changed(TINY, train=settings, sample={"num": 4}, validation=validation)
    train(config, folder)
    train(changed(config, train={"steps": 4}, optimizer={"learning_rate": 1e-3}), folder)
    return folder


def test_the_config(folder):
    found = json.loads((folder / "config.json").read_text())
    assert list(found) == list(documented("config.json"))


def test_the_rows_of_the_metrics(folder):
    rows, keys = lines(folder / "metrics.jsonl"), list(documented("metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 4, 4]
    for own, among in ((["step", "validation_loss"], (2, 5)), (keys[:-1], (0, 1, 3, 4))):
        assert all(list(rows[k]) == own for k in among)
    assert keys[-1] == "validation_loss"


def test_the_mark_of_the_best(folder):
    (said,) = [line for line in FILES.splitlines() if "checkpoints/best.json" in line]
    found = json.loads((folder / "checkpoints/best.json").read_text())
    assert list(found) == re.findall("`([^`]+)`", said)[1:]


def test_the_events_of_a_run(folder):
    events = lines(folder / "events.jsonl")
    assert [event["event"] for event in events] == ["start", "start", "config"]
    assert all(set(event) == event_keys()[event["event"]] for event in events)
    (changes,) = [event["changes"] for event in events if event["event"] == "config"]
    assert changes["optimizer.learning_rate"] == [1e-2, 1e-3]


def test_every_event_that_training_logs_is_documented():
    source = "".join(path.read_text() for path in (PACKAGE / "training").rglob("*.py"))
    logged = set(re.findall(r'\.event\([^,()]+, "([^"]+)"', source))
    assert logged == set(event_keys())


def test_the_facts_about_a_checkpoint(folder):
    found = json.loads((folder / "checkpoints/4/meta.json").read_text())
    assert set(found) == set(documented("meta.json"))
    keys = re.findall("`([^`]+)`", documented("meta.json")["data"])
    assert set(found["data"]) == set(keys)


def test_samples_in_a_folder(folder, tmp_path):
    run = load(folder)
    sample_shards(run, tmp_path / "many", 20, batch_size=16)
    about = json.loads((tmp_path / "many/samples.json").read_text())
    settings = {item.name for item in dataclasses.fields(SampleConfig)}
    assert set(about) == set(documented("samples.json")) | settings
    sizes = []
    for path in sorted((tmp_path / "many").glob("samples-*.npz")):
        with np.load(path) as arrays:
            assert set(arrays) == set(documented("samples.npz"))
            sizes.append(len(arrays["samples"]))
            assert arrays["samples"].dtype == np.float32
            assert arrays["labels"].dtype == np.int32
    assert sizes == [16, 4]


def test_an_evaluation(folder, tmp_path, capsys):
    path = tmp_path / "found.json"
    words = ["evaluate", str(folder), "--num", "20", "--metrics", "coverage", "--output", str(path)]
    assert cli.main([*words, "--features", "pixels"]) == 0, capsys.readouterr()
    found = json.loads(path.read_text())
    assert list(found) == list(documented("evaluation.json"))
    assert set(found["values"]) == {"density", "coverage", "coverage_if_equal"}
    assert sum(found["samples"]["labels"]) == 20


def test_the_terms_of_a_bound(folder, tmp_path, capsys):
    path = tmp_path / "found.json"
    words = ["evaluate", str(folder), "--num", "8", "--metrics", "bits_per_dim"]
    assert cli.main([*words, "--output", str(path)]) == 0, capsys.readouterr()
    found = json.loads(path.read_text())
    assert list(found) == list(documented("evaluation.json"))
    names = {"bits_per_dim", "bits_per_dim_error", "rate", "distortion", "prior"}
    assert set(found["values"]) == names
    with np.load(path.with_suffix(".npz")) as arrays:
        assert set(arrays) == set(documented("bound.npz"))
        assert all(arrays[name].shape == (20,) for name in arrays)
        total = found["values"]["prior"] + arrays["vb"].sum()
        assert total == pytest.approx(found["values"]["bits_per_dim"], rel=1e-5)
    terms = ["--terms", str(path.with_suffix(".npz")), "--output", str(tmp_path / "bound.png")]
    assert cli.main(["plot", str(folder), "bound", *terms]) == 0, capsys.readouterr()
    assert (tmp_path / "bound.png").stat().st_size > 10_000


def test_samples_as_pictures(folder, tmp_path):
    run = load(folder)
    sample_shards(run, tmp_path / "many", 4, format="png")
    found = json.loads((tmp_path / "many/dataset.json").read_text())
    assert list(found) == list(documented("dataset.json"))
    sample_pixels(run, tmp_path / "some.npz", 4)
    with np.load(tmp_path / "some.npz") as arrays:
        assert set(arrays) == set(documented("pixels.npz"))
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].dtype == np.int64


def test_a_folder_of_samples_gets_what_is_torn_and_keeps_what_others_put_there(folder, tmp_path):
    run, many = load(folder), tmp_path / "many"
    sample_shards(run, many, 40, batch_size=16)
    whole = {path.name: path.read_bytes() for path in many.glob("samples-*.npz")}
    (many / "samples-00000.npz").write_bytes(b"\0" * 999)
    (many / "samples-00002.npz").write_bytes(whole["samples-00002.npz"][:-9])
    (many / ".samples-00001.77.npz").write_bytes(b"half")
    foreign = ["._samples-00000.npz", ".samples-of-mine.npz", "samples-best.npz", "@eaDir"]
    for name in foreign:
        (many / name).write_bytes(b"not ours")
    sample_shards(run, many, 40, batch_size=16)
    for name in whole:
        with np.load(many / name) as found, np.load(io.BytesIO(whole[name])) as expected:
            np.testing.assert_array_equal(found["samples"], expected["samples"])
    assert {path.name for path in many.iterdir()} == {*whole, *foreign, "samples.json"}


def test_samples_go_into_a_folder_of_their_own(folder, tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"a system's")
    sample_shards(load(folder), tmp_path, 4, batch_size=16)
    (tmp_path / "samples.json").unlink()
    with pytest.raises(UserError, match=r"has samples-00000\.npz, and no samples\.json"):
        sample_shards(load(folder), tmp_path, 4, batch_size=16)
