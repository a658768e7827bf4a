"""How many samples lie in a folder: the files of each part, and how they are written and read."""

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data.formats import open_picture_file
from ddpm_jax.data.source import StreamSource
from ddpm_jax.errors import UserError
from ddpm_jax.files import StoragePath, StoreError, replacing
from ddpm_jax.sampling.files import (
    Arrays,
    pixels_of,
    read_pixels,
    read_samples,
    write_picture,
    write_pixels,
    write_samples,
)
from ddpm_jax.sampling.samples import Samples, visible
from ddpm_jax.typing import is_image

_LABELS = "dataset.json"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Part(NamedTuple):
    """Samples first … first+num-1 of a folder, which is its part k."""

    k: int
    first: int
    num: int


Reader = Callable[[Part], Arrays]


class Format(NamedTuple):
    """What a folder of samples consists of.

    `own` is a regular expression for the names of all files that the format writes, and `names`
    are those of a part. `write` writes a part. `open` returns a function that reads the parts of a
    folder: `samples`, uint8 pixels or floats, and `labels` and `class_names` if there are labels.
    """

    own: str
    names: Callable[[Part], list[str]]
    write: Callable[[StoragePath, Part, Samples], None]
    open: Callable[[StoragePath], Reader]
    has_end: Callable[[Path], bool]
    """Whether a file has its end; lost power can leave it empty or without."""
    obstacle: Callable[[DataConfig], str | None] = lambda data: None
    """Why it can't hold samples like these data."""
    joins: bool = True
    """Whether one .npz can also hold all samples."""
    finish: Callable[[StoragePath, np.ndarray, Sequence[str]], None] = lambda *labels: None
    """Writes the labels int `[N]` of a complete folder, and their names, if it keeps them apart."""

    def is_own(self, name: str) -> bool:
        """Whether the format writes files of this name."""
        return re.fullmatch(self.own, name) is not None

    def is_half(self, name: str) -> bool:
        """Whether this is the name of a file that a kill kept `replacing` from renaming."""
        found = re.fullmatch(r"\.(.+)\.[0-9]+(\.[a-z]+)", name)
        return found is not None and self.is_own(found[1] + found[2])


# --- arrays ---------------------------------------------------------------------------------------


def _npz(
    write: Callable[[StoragePath, Samples], None],
    read: Callable[[StoragePath], Arrays],
    obstacle: Callable[[DataConfig], str | None] = lambda data: None,
) -> Format:
    """Returns the format of one .npz for each part."""

    def names(part: Part) -> list[str]:
        return [f"samples-{part.k:05}.npz"]

    return Format(
        own=r"samples-[0-9]+\.npz",
        names=names,
        write=lambda folder, part, drawn: write(folder / names(part)[0], drawn),
        open=lambda folder: lambda part: read(folder / names(part)[0]),
        has_end=zipfile.is_zipfile,
        obstacle=obstacle,
    )


# --- pictures -------------------------------------------------------------------------------------


def _no_pictures(data: DataConfig) -> str | None:
    if is_image(data.example_shape):
        return None
    return "it holds pictures, and these samples are points"


def _no_png(data: DataConfig) -> str | None:
    chosen = getattr(data, "show_channels", None)
    channels = data.example_shape[-1] if chosen is None else len(chosen)
    reason = _no_pictures(data)
    if reason is None and channels not in _MODES:
        return f"a PNG has 1, 3 or 4 channels, and these samples have {channels}"
    return reason


def _picture_names(part: Part) -> list[str]:
    return [f"{i:06}.png" for i in range(part.first, part.first + part.num)]


def _ends_as_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 8))
            return file.read() == b"IEND\xaeB`\x82"
    except OSError:
        return False


def _write_pictures(folder: StoragePath, part: Part, drawn: Samples) -> None:
    def write(name: str, picture: np.ndarray) -> None:
        write_picture(folder / name, picture)

    pictures = pixels_of(visible(drawn.samples, drawn.shown))
    with ThreadPoolExecutor(StreamSource.workers) as pool:
        for _ in pool.map(write, _picture_names(part), pictures):
            pass


def _open_pictures(folder: StoragePath) -> Reader:
    labels, class_names = _read_labels(folder / _LABELS)

    def read(part: Part) -> Arrays:
        names = _picture_names(part)
        with ThreadPoolExecutor(StreamSource.workers) as pool:
            pictures = list(pool.map(lambda name: _read_picture(folder / name), names))
        for name, picture in zip(names, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                shape = "×".join(map(str, picture.shape))
                raise UserError(f"{folder / name} is {shape}, unlike the others; draw them again")
        found = {"samples": np.stack(pictures)}
        if labels is not None:
            lacking = next((name for name in names if name not in labels), None)
            if lacking is not None:
                raise UserError(f"{folder / _LABELS} has no label of {lacking}; draw them again")
            found["labels"] = np.array([labels[name] for name in names], np.int32)
            found["class_names"] = np.array(class_names, np.str_)
        return found

    return read


def _read_picture(path: StoragePath) -> np.ndarray:
    """Returns uint8 `[H, W, C]` exactly as they are stored."""
    try:
        with open_picture_file(path.read_bytes(), path.name) as image:
            if image.mode not in _MODES.values():
                raise ValueError(f"its mode is {image.mode}")
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; draw the samples again") from None
    except StoreError:
        raise
    # A damaged file can make a decoder raise any error.
    except Exception as error:
        raise UserError(f"{path} can't be read ({error}); draw the samples again") from None
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _write_labels(folder: StoragePath, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Writes the labels as the data sets of StyleGAN and EDM have them, beside flat pictures."""
    names = _picture_names(Part(0, 0, len(labels)))
    about: dict[str, Any] = {"labels": [*zip(names, labels.tolist(), strict=True)]}
    if class_names:
        about["class_names"] = list(class_names)
    with replacing(folder / _LABELS) as beside:
        beside.write_text(json.dumps(about) + "\n")


def _read_labels(path: StoragePath) -> tuple[dict[str, int] | None, list[str]]:
    """Returns the label of each picture and the classes' names; None without labels."""
    if not path.is_file():
        return None, []
    try:
        about = json.loads(path.read_bytes())
        labels = {str(name): label for name, label in about["labels"]}
        known = max(labels.values()) + 1
        names = about.get("class_names", list(map(str, range(known))))
        if any(type(label) is not int or label < -1 for label in labels.values()):
            raise ValueError("a label is no whole number")
        if len(names) < known or not all(isinstance(name, str) for name in names):
            raise ValueError("its class_names do not fit its labels")
    except StoreError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error}); draw the samples again") from None
    return labels, names


FORMATS = {
    "npz": _npz(write_samples, read_samples),
    "png": Format(
        own=r"[0-9]{6,}\.png|dataset\.json",
        names=_picture_names,
        write=_write_pictures,
        open=_open_pictures,
        has_end=_ends_as_png,
        obstacle=_no_png,
        joins=False,
        finish=_write_labels,
    ),
    "arr_0": _npz(write_pixels, read_pixels, _no_pictures),
}
