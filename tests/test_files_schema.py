"""Files have exactly the keys that the README of the package documents, and so have events."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import ddpm_jax
from ddpm_jax.config import SampleConfig
from ddpm_jax.sampling.run import load
from ddpm_jax.sampling.shards import sample_shards
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
    config = changed(TINY, train=settings, sample={"num": 4})
    train(config, folder)
    train(changed(config, train={"steps": 4}, optimizer={"learning_rate": 1e-3}), folder)
    return folder


def test_the_config(folder):
    found = json.loads((folder / "config.json").read_text())
    assert list(found) == list(documented("config.json"))


def test_the_rows_of_the_metrics(folder):
    rows = lines(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(list(row) == list(documented("metrics.jsonl")) for row in rows)


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
