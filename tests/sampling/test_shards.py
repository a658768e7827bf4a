"""Samples in a folder: each file has its own, and no more are computed than are asked for."""

import json

import jax
import numpy as np
import pytest

from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.shards import sample_shards


@pytest.fixture
def run(trained):
    mesh = make_mesh(devices=jax.devices()[:1])
    return Run(storage_path("runs/tiny"), 6, *trained, name="ema", mesh=mesh)


@pytest.fixture
def computed(monkeypatch):
    """The size of each batch that a chain computes; the chain itself is its first noise."""
    sizes = []

    def chain(self, params, rows, chunk, *, key, indices, x, **rest):
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


def test_a_folder_of_few_samples_computes_only_these(run, computed, tmp_path):
    sample_shards(run, storage_path(tmp_path / "few"), 20, batch_size=256)
    assert computed == [20]
    assert [len(piece) for piece in drawn(tmp_path / "few")] == [20]
    assert json.loads((tmp_path / "few/samples.json").read_text())["batch_size"] == 256


def test_the_files_of_a_folder_share_one_shape_and_hold_the_samples_of_one_draw(
    run, computed, tmp_path
):
    sample_shards(run, storage_path(tmp_path / "some"), 20, batch_size=8)
    assert computed == [8, 8, 8]
    pieces = drawn(tmp_path / "some")
    assert [len(piece) for piece in pieces] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate(pieces), run.sample(20).samples)


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
def test_batches_are_no_larger_than_it_takes(run, computed, num, batch_size, trajectories, sizes):
    found = run.sample(num, batch_size=batch_size, num_trajectories=trajectories)
    assert computed == sizes
    assert len(found.samples) == num
    np.testing.assert_array_equal(found.samples, run.sample(num).samples)
