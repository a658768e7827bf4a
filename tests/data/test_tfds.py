import dataclasses
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax.config import TfdsData
from ddpm_jax.data import count_examples, loading, open_source
from ddpm_jax.data.source import ArraySource, StreamSource
from ddpm_jax.data.tfds import prepare
from ddpm_jax.errors import UserError

REAL = pytest.mark.parametrize("name", ["mnist", "cifar10"])


@REAL
def test_images_and_labels_are_those_that_tfds_decodes(name, tfds_config):
    import tensorflow_datasets as tfds

    config = tfds_config(name, "train[100:228]")
    source = open_source(config)
    assert isinstance(source, ArraySource)
    assert (len(source), source.shape) == (128, config.example_shape)
    assert len(source.class_names) == 10
    batch: Any = source.gather(np.arange(128))
    assert (batch.examples.dtype, batch.labels.dtype) == (np.uint8, np.int32)
    folder = next(Path(config.data_dir, name).iterdir())
    builder: Any = tfds.builder_from_directory(folder)
    raw = builder.as_data_source(split="train")
    records = [raw[100 + i] for i in range(128)]
    np.testing.assert_array_equal(batch.examples, [record["image"] for record in records])
    np.testing.assert_array_equal(batch.labels, [record["label"] for record in records])
    # Real pictures use the whole range.
    assert (batch.examples.min(), batch.examples.max()) == (0, 255)


@REAL
def test_streamed_and_in_memory_give_the_same(name, tfds_config, monkeypatch):
    config = tfds_config(name, "train[:300]", image_size=(16, 20))
    whole = open_source(config)
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 0)
    stream = open_source(config)
    assert isinstance(stream, StreamSource)
    indices = np.random.default_rng(0).integers(300, size=64)
    for one, other in zip(whole.gather(indices), stream.gather(indices), strict=True):
        np.testing.assert_array_equal(one, other)


SPLITS = {"train": 60_000, "test": 10_000, "train[:90%]": 54_000, "train[:3]+test[:2]": 5}


@pytest.mark.parametrize(("split", "count"), SPLITS.items())
def test_splits_are_counted_without_decoding(split, count, tfds_config):
    assert count_examples(tfds_config("mnist", split)) == count


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_and_channels_can_be_asked_for(channels, tfds_config):
    config = tfds_config("mnist", "train[:32]", image_size=(14, 32), channels=channels)
    examples = open_source(config).gather(np.arange(32)).examples
    assert examples.shape == (32, 14, 32, channels)
    if channels == 4:
        assert (examples[..., 3] == 255).all()


def test_a_version_can_be_named_and_the_environment_says_where(tfds_config, monkeypatch):
    config = tfds_config("mnist")
    version = next(Path(config.data_dir, "mnist").iterdir()).name
    monkeypatch.setenv("TFDS_DATA_DIR", config.data_dir)
    settings = {"split": "train[:5]", "image_size": (28, 28), "channels": 1}
    assert count_examples(TfdsData(name=f"mnist:{version}", **settings)) == 5


def refused(config: TfdsData, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        open_source(config)
    assert "\n" not in str(caught.value)


UNPREPARED = {
    "mnizt": r"no data set 'mnizt' \(did you mean mnist\?\)",
    "fashion_mnist": "not prepared in .*; run: TFDS_DATA_DIR=.* ddpm data prepare fashion_mnist",
    "fashion_mnist:1.0.0": "run: .* ddpm data prepare fashion_mnist:1.0.0",
    "no name": "must be NAME",
}


@pytest.mark.parametrize(("name", "match"), UNPREPARED.items())
def test_what_is_not_there_says_how_to_get_it(name, match, tmp_path):
    refused(TfdsData(name=name, data_dir=str(tmp_path)), match)


EMPTY = ["[5:5]", "[10:5]", "[90%:10%]", "[:0]", "[100%:]", "[:-60000]", "[:0]+test[:0]"]
EMPTY += ["[9:5]+test"]


@pytest.mark.parametrize("slices", EMPTY)
def test_an_empty_slice_is_refused_however_it_is_spelled(slices, tfds_config):
    refused(tfds_config("mnist", f"train{slices}"), "of mnist is empty; widen its slice")


def test_a_bucket_is_no_folder():
    refused(TfdsData(data_dir="gs://bucket/tfds"), "gs://bucket/tfds.*mount it")


WRONG_SPLITS = {
    "trian": r"Unknown split 'trian'.*its splits are train, test",
    "train[:9": "its splits are train, test",
    "train[70000:]": "its splits are train, test",
    "train[:0]": "is empty",
}


@pytest.mark.parametrize(("split", "match"), WRONG_SPLITS.items())
def test_wrong_splits_name_the_right_ones(split, match, tfds_config):
    refused(tfds_config("mnist", split), match)


def truncate(folder: Path) -> None:
    file = next(folder.glob("*train*"))
    file.write_bytes(file.read_bytes()[:1_000_000])


def scribble(folder: Path) -> None:
    file = next(folder.glob("*train*"))
    data = bytearray(file.read_bytes())
    data[100_000:102_000] = b"\xff" * 2000
    file.write_bytes(data)


def lose(folder: Path) -> None:
    next(folder.glob("*train*")).unlink()


def lose_description(folder: Path) -> None:
    (folder / "dataset_info.json").unlink()


def tear_description(folder: Path) -> None:
    (folder / "features.json").write_text("{")


def other_format(folder: Path) -> None:
    file = folder / "dataset_info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fileFormat": "tfrecord"}))


def no_images(folder: Path) -> None:
    file = folder / "features.json"
    plain = json.loads(file.read_text())
    features = plain["featuresDict"]["features"]
    features["digit"] = features.pop("image")
    file.write_text(json.dumps(plain))


DAMAGE = {
    truncate: "damaged",
    scribble: "damaged",
    lose: "damaged",
    lose_description: "damaged",
    tear_description: "damaged",
    other_format: "not in array_record",
}


@pytest.fixture
def mnist_copy(tfds_config: Callable[..., TfdsData], tmp_path: Path) -> tuple[TfdsData, Path]:
    """A config of a writable copy of MNIST, and the folder of its files."""
    config = tfds_config("mnist", "train[:2000]")
    original = next(Path(config.data_dir or "", "mnist").iterdir())
    folder = tmp_path / "mnist" / original.name
    folder.mkdir(parents=True)
    for file in original.iterdir():
        shutil.copyfile(file, folder / file.name)
    return dataclasses.replace(config, data_dir=str(tmp_path)), folder


@pytest.mark.parametrize(("damage", "match"), DAMAGE.items())
def test_damage_is_one_line_that_says_how_to_mend(damage, match, mnist_copy):
    config, folder = mnist_copy
    damage(folder)
    refused(config, f"{match}.*delete that folder and run: .* ddpm data prepare mnist")


def test_a_set_without_images_names_its_features(mnist_copy):
    config, folder = mnist_copy
    no_images(folder)
    refused(config, "no `image` of pixels; its features: .*digit")


def test_the_newest_version_is_taken_unless_one_is_named(mnist_copy):
    config, folder = mnist_copy
    folder.rename(folder.parent / "10.0.0")
    (folder.parent / "9.0.0").mkdir()
    (folder.parent / "11.0.0.incomplete").mkdir()
    assert count_examples(config) == 2000
    refused(dataclasses.replace(config, name="mnist:9.0.0"), "9.0.0 are damaged")


def test_a_split_without_labels_is_refused(tfds_config, monkeypatch):
    from tensorflow_datasets.core.data_sources.base import BaseDataSource

    read = BaseDataSource.__getitems__

    def unlabelled(self, keys):
        return [dict(record) | {"label": -1} for record in read(self, keys)]

    monkeypatch.setattr(BaseDataSource, "__getitems__", unlabelled)
    refused(tfds_config("mnist", "test[:9]"), "test.* has no labels; choose another")


def test_configs_of_a_set_are_chosen_by_name(mnist_copy):
    config, folder = mnist_copy
    root = folder.parent
    (root / "small").mkdir()
    folder.rename(root / "small" / folder.name)
    assert count_examples(config) == 2000
    shutil.copytree(root / "small", root / "large")
    refused(config, "prepared as mnist/large, mnist/small; choose one of them")


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
def test_preparing_without_tensorflow_says_what_to_install(tmp_path):
    with pytest.raises(UserError, match=r"pip install 'ddpm_jax\[prepare\]'") as caught:
        prepare("mnist", str(tmp_path))
    assert "\n" not in str(caught.value)


def test_reading_needs_no_tensorflow(tfds_config):
    open_source(tfds_config("mnist", "train[:2]"))
    assert "tensorflow" not in sys.modules


def test_a_set_that_can_not_be_prepared_is_one_line(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    find = importlib.util.find_spec
    there = ("tensorflow", "importlib_resources")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: name in there or find(name, *rest)
    )
    with pytest.raises(UserError, match=r"none is not a folder; give the folder of the original"):
        prepare("mnist", str(tmp_path), tmp_path / "none")

    def fail(*args, **options):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(tfds, "builder", fail)
    with pytest.raises(UserError, match=r"^preparing mnist in .* failed \(.*\); try again, or"):
        prepare("mnist", str(tmp_path), tmp_path)


def test_a_set_with_levels_out_of_its_range_is_refused(tfds_config):
    refused(tfds_config("mnist", "train[:9]", range=(0, 100)), "mnist has levels from 0 to 2")


def test_a_set_that_tfds_fails_to_open_is_called_damaged(tfds_config, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(*args, **options):
        raise RuntimeError("no such shard")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", fail)
    refused(tfds_config("mnist", "train[:9]"), "damaged.*no such shard")
