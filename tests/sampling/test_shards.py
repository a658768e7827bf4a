"""Samples in numbered files: which are drawn, with what, and where they lie."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ddpm_jax.sampling.samples import Samples
from ddpm_jax.sampling.shards import sample_shards
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

    return SimpleNamespace(config=TINY, step=4, name="ema", sample=sample, first=asked)


def contents(folder):
    files = [np.load(path) for path in sorted(folder.glob("samples-*.npz"))]
    return [np.concatenate([file[name] for file in files]) for name in ("samples", "labels")]


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("labels", [None, [(7 * i + 3) % 10 for i in range(NUM)]])
def test_the_files_hold_each_sample_of_the_seed_once_with_its_label(run, tmp_path, seed, labels):
    assert sample_shards(run, tmp_path, NUM, seed=seed, labels=labels, batch_size=SIZE) == NUM
    samples, found = contents(tmp_path)
    np.testing.assert_array_equal(samples, [(seed, i) for i in range(NUM)])
    np.testing.assert_array_equal(found, labels or np.arange(NUM) % 10)


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
