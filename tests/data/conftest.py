"""Fixtures of the data tests: prepared TFDS sets if there are any, and a source that decodes."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.config import TfdsData
from ddpm_jax.data.source import StreamSource

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """Keeps the decoded data of tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DDPM_JAX_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tfds_root() -> Path:
    """The folder of prepared TFDS sets; skips the test if there is none."""
    given = os.environ.get("TFDS_DATA_DIR")
    if not given:
        pytest.skip("TFDS_DATA_DIR is not set: no prepared TFDS sets to read")
    return Path(given)


@pytest.fixture(scope="session")
def tfds_config(tfds_root: Path) -> Callable[..., TfdsData]:
    """Makes configs of real sets in their own shape; skips the test if a set is not prepared."""

    def make(name: str, split: str = "train[:512]", **changes) -> TfdsData:
        if not (tfds_root / name).is_dir():
            pytest.skip(f"{name} is not prepared in {tfds_root}")
        *size, channels = SHAPES[name]
        settings = {"image_size": tuple(size), "channels": channels} | changes
        return TfdsData(name=name, split=split, data_dir=str(tfds_root), **settings)

    return make


@pytest.fixture
def numbered() -> Callable[..., StreamSource]:
    """Makes sources of n examples that decode; one of them may fail."""
    return _numbered


def _numbered(length: int, *, fail_at: int | None = None) -> StreamSource:
    """A source whose example i has shape 2×2×1, is filled with i, and has the label i % 3."""

    def read(indices: np.ndarray) -> list[tuple[np.ndarray, int]]:
        if fail_at is not None and fail_at in indices:
            raise OSError(f"example {fail_at} is torn")
        return [(np.full((2, 2, 1), i, np.uint8), int(i) % 3) for i in indices]

    return StreamSource(read, length=length, shape=(2, 2, 1), class_names=("a", "b", "c"))
