"""A small config of each source: its defaults, unless they need files."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax.config import ArraysData, FolderData, PictureData, TfdsData
from ddpm_jax.data import SOURCES, SourceConfig, settings_of

_IMAGE = {"image_size": (4, 4), "channels": 1}


def _folder(here: Path) -> SourceConfig:
    for name in ("a", "b"):
        (here / name).mkdir()
        for i in range(2):
            Image.new("L", (4, 4), 50 * i).save(here / name / f"{i}.png")
    return FolderData(path=str(here), **_IMAGE)


def _arrays(here: Path) -> SourceConfig:
    np.save(here / "x.npy", np.arange(180, dtype=np.uint8).reshape(6, 5, 6))
    return ArraysData(path=str(here / "x.npy"), **_IMAGE)


def _picture(here: Path) -> SourceConfig:
    Image.new("L", (4, 4), 200).save(here / "a.png")
    return PictureData(path=str(here / "a.png"), channels=1)


_NEED_FILES: dict[str, Callable[[Path], SourceConfig]] = {
    "folder": _folder,
    "arrays": _arrays,
    "picture": _picture,
    "points": lambda here: settings_of(SOURCES["points"])(size=50),  # type: ignore[call-arg]
    "tfds": lambda here: TfdsData(name="mnist", image_size=(28, 28), channels=1, split="train[:8]"),
}


def example_config(kind: str, here: Path) -> SourceConfig:
    """Returns the config of a row of SOURCES, whose files are made in a new folder."""
    here = here / kind
    here.mkdir(parents=True)
    return _NEED_FILES.get(kind, lambda _: settings_of(SOURCES[kind])())(here)


def is_there(config: SourceConfig) -> bool:
    """Whether the data can be read here: sets of TFDS are prepared by hand."""
    if not isinstance(config, TfdsData):
        return True
    return Path(os.environ.get("TFDS_DATA_DIR", "/nowhere"), config.name).is_dir()
