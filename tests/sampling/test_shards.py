"""Samples in numbered files: which are drawn, with what, and where they lie."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from ddpm_jax.config import override
from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.guides import NO_GUIDES
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.sampling.shards import ShardSource, sample_shards
from tests.tiny import TINY

NUM, SIZE = 23, 4


@pytest.fixture
def run() -> Any:
    """A run whose sample i of a seed is the pair (seed, i); `first` keeps what it was asked for."""
    asked: list[int] = []

    def sample(num, *, seed=0, first=0, labels=None, **options):
        asked.append(first)
        places = np.arange(first, first + num)
        pairs = np.stack([np.full(num, seed), places], axis=1).astype(np.float32)
        return Samples(pairs, np.asarray(places % 10 if labels is None else labels), None, None)

    return SimpleNamespace(
        config=TINY,
        step=4,
        name="ema",
        class_names=(),
        num_classes=10,
        params={},
        labels=lambda chosen: None if chosen is None else np.asarray(chosen),
        sample=sample,
        options=lambda **settings: override(TINY.sample, settings),
        guides=NO_GUIDES,
        prepare=lambda **settings: None,
        first=asked,
    )


def contents(folder):
    files = [np.load(path) for path in sorted(folder.glob("samples-*.npz"))]
    return [np.concatenate([file[name] for file in files]) for name in ("samples", "labels")]


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("labels", [None, [(7 * i + 3) % 10 for i in range(NUM)]])
def test_the_files_hold_each_sample_of_the_seed_once_with_its_label(run, tmp_path, seed, labels):
    assert sample_shards(run, tmp_path, NUM, seed=seed, labels=labels, batch_size=SIZE) == NUM
    samples, found = contents(tmp_path)
    np.testing.assert_array_equal(samples, [(seed, i) for i in range(NUM)])
    np.testing.assert_array_equal(found, np.arange(NUM) % 10 if labels is None else labels)


@pytest.mark.parametrize("labels", [None, [0] * SIZE + [7] + [1] * (NUM - SIZE - 1)])
def test_classes_without_names_are_those_of_all_parts(run, tmp_path, labels):
    sample_shards(run, tmp_path, NUM, labels=labels, batch_size=SIZE)
    source, count = ShardSource(tmp_path), 10 if labels is None else 8
    assert source.class_names == tuple(map(str, range(count)))
    found = source.gather(np.arange(NUM)).labels
    np.testing.assert_array_equal(found, np.arange(NUM) % 10 if labels is None else labels)


def test_only_the_files_that_are_missing_are_drawn_again(run, tmp_path):
    sample_shards(run, tmp_path, NUM, batch_size=SIZE)
    before = contents(tmp_path)
    for k in (1, 5):
        (tmp_path / f"samples-{k:05}.npz").unlink()
    run.first.clear()
    sample_shards(run, tmp_path, NUM, batch_size=SIZE)
    assert run.first == [SIZE, 5 * SIZE]
    for found, expected in zip(contents(tmp_path), before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture
def tiny(trained):
    mesh = make_mesh(devices=jax.devices()[:1])
    return Run(storage_path("runs/tiny"), 6, *trained, name="ema", mesh=mesh)


@pytest.fixture
def computed(monkeypatch):
    """The size of each batch that a chain computes; the chain itself is its first noise."""
    sizes = []

    def chain(self, params, rows, *, chunk, key, indices, x, given):
        sizes.append(len(indices))
        yield len(rows.t), self._start(key, indices, x)

    monkeypatch.setattr(SampleProgram, "_run", chain)
    return sizes


def drawn(folder):
    pieces = []
    for path in sorted(folder.glob("samples-*.npz")):
        with np.load(path) as arrays:
            pieces.append(arrays["samples"])
    return pieces


def test_a_folder_of_few_samples_computes_only_these(tiny, computed, tmp_path):
    sample_shards(tiny, storage_path(tmp_path / "few"), 20, batch_size=256)
    assert computed == [20]
    assert [len(piece) for piece in drawn(tmp_path / "few")] == [20]
    assert json.loads((tmp_path / "few/samples.json").read_text())["batch_size"] == 256


def test_the_files_of_a_folder_share_one_shape_and_hold_the_samples_of_one_draw(
    tiny, computed, tmp_path
):
    sample_shards(tiny, storage_path(tmp_path / "some"), 20, batch_size=8)
    assert computed == [8, 8, 8]
    pieces = drawn(tmp_path / "some")
    assert [len(piece) for piece in pieces] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate(pieces), tiny.sample(20).samples)


@pytest.mark.parametrize(
    ("num", "batch_size", "trajectories", "sizes"),
    [
        (20, 256, 0, [20]),
        (257, 256, 0, [129, 129]),
        (20, 8, 0, [7, 7, 7]),
        (20, 8, 8, [8, 8, 8]),  # The first batch has all trajectories.
        (1, 1, 0, [1]),
    ],
)
def test_batches_are_no_larger_than_it_takes(tiny, computed, num, batch_size, trajectories, sizes):
    found = tiny.sample(num, batch_size=batch_size, num_trajectories=trajectories)
    assert computed == sizes
    assert len(found.samples) == num
    np.testing.assert_array_equal(found.samples, tiny.sample(num).samples)
