"""The order of examples does not depend on their storage or on the number of processes."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.config import ArraysData, DataConfig, FolderData
from ddpm_jax.data import loading, open_source
from ddpm_jax.data.batches import Batches, batch_indices
from ddpm_jax.data.source import ArraySource, StreamSource

N, BATCH, STEPS = 37, 8, 501
SIZE: Any = {"image_size": (5, 6), "channels": 3}


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """The same 37 pictures in three classes as a folder, a zip and arrays."""
    root = tmp_path_factory.mktemp("stored")
    pixels = np.random.default_rng(0).integers(256, size=(N, 5, 6, 3), dtype=np.uint8)
    labels = np.sort(np.arange(N) % 3)
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        for i in range(N):
            name = f"{'abc'[labels[i]]}/{i:02}.png"
            path = root / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(path)
            archive.write(path, f"wrapped/{name}")
    np.savez(root / "set.npz", x=pixels, labels=labels)
    np.save(root / "set.npy", pixels)
    np.save(root / "labels.npy", labels)
    return root


def configs(root: Path, **settings: Any) -> dict[str, DataConfig]:
    settings = SIZE | settings
    labels = str(root / "labels.npy")
    return {
        "folder": FolderData(path=str(root / "set"), **settings),
        "zip": FolderData(path=str(root / "set.zip"), **settings),
        "npz": ArraysData(path=str(root / "set.npz"), **settings),
        "npy": ArraysData(path=str(root / "set.npy"), labels=labels, **settings),
    }


def run(source: Any, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns the examples and labels of steps 0 … 500, combined from `count` processes."""
    parts = []
    for index in range(count):
        rows = slice(index * BATCH // count, (index + 1) * BATCH // count)
        with Batches(source, seed=11, batch_size=BATCH, rows=rows) as batches:
            found = [batches(step) for step in range(STEPS)]
        parts.append([np.stack(arrays) for arrays in zip(*found, strict=True)])
    examples, labels = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    return examples, labels


@pytest.fixture(scope="module")
def expected(stored) -> tuple[np.ndarray, np.ndarray]:
    """Steps 0 … 500 by hand: 108 epochs, most of which end within a batch."""
    held = np.load(stored / "set.npz")
    indices = np.stack([batch_indices(11, step, BATCH, N) for step in range(STEPS)])
    return held["x"][indices], held["labels"][indices]


@pytest.mark.parametrize("held", ["in memory", "streamed"])
@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "npy"])
def test_every_form_gives_the_same_501_batches(kind, held, stored, expected, monkeypatch):
    if held == "streamed":
        monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 0 if kind != "npz" else 2**12)
    source = open_source(configs(stored)[kind])
    if kind in ("folder", "zip"):
        assert isinstance(source, StreamSource if held == "streamed" else ArraySource)
    assert source.streams == (held == "streamed" and kind != "npz")
    for found, array in zip(run(source), expected, strict=True):
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("held", ["in memory", "streamed"])
def test_processes_share_the_same_501_batches(count, held, stored, expected, monkeypatch):
    if held == "streamed":
        monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 0)
    source = open_source(configs(stored)["zip"])
    for found, array in zip(run(source, count), expected, strict=True):
        np.testing.assert_array_equal(found, array)


def test_random_crops_are_the_same_in_every_form_and_for_every_number_of_processes(
    stored, monkeypatch
):
    crops: dict[str, Any] = {"image_size": (3, 4), "crop_from": (5, 6)}
    one = run(open_source(configs(stored, **crops)["npz"]))
    # The crops of one picture have several positions.
    assert len(np.unique(one[0][one[1] == 0], axis=0)) > 3 * (N // 3)
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 0)
    for count in (1, 2, 4):
        source = open_source(configs(stored, **crops)["folder"])
        assert source.streams
        for found, array in zip(run(source, count), one, strict=True):
            np.testing.assert_array_equal(found, array)


def test_real_digits_come_in_one_order_however_they_are_held(tfds_config, monkeypatch):
    config = tfds_config("mnist", "train[:300]")
    held = run(open_source(config))
    monkeypatch.setattr(loading, "IN_MEMORY_BYTES", 0)
    source = open_source(config)
    assert source.streams
    for found, array in zip(run(source, 2), held, strict=True):
        np.testing.assert_array_equal(found, array)
