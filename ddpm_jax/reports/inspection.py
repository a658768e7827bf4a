"""What a data set is made of: every example is read once, as it is, and counted."""

import collections
import hashlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config import ArraysData, DataConfig, DigitsData, FolderData, PictureData, TfdsData
from ddpm_jax.data.arrays import as_images, as_points, read_arrays
from ddpm_jax.data.digits import open_digits
from ddpm_jax.data.folder import find_classes
from ddpm_jax.data.listing import list_pictures
from ddpm_jax.data.picture import read_picture
from ddpm_jax.data.pictures import (
    SUFFIXES,
    decode_picture,
    fit_pixels,
    open_picture_file,
    upright,
)
from ddpm_jax.data.points import open_points
from ddpm_jax.data.source import StreamSource, Unreadable
from ddpm_jax.data.tfds import open_records
from ddpm_jax.errors import UserError

Progress = Callable[[int, int], None]

_KINDS = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I;16": "grey in 16 bits",
    "P": "palette",
    "RGB": "colour",
    "RGBA": "colour with transparency",
}
_PART, _PREVIEW, _PREVIEW_SIDE, _NAMED = 32, 64, 64, 10


class Survey(NamedTuple):
    """The facts, as plain values by name, and some of the examples to look at.

    `preview` are examples `[n, H, W, C]` or points `[n, 2]` on the scale of `plots`, evenly from
    the whole; `labels` int `[n]` or None.
    """

    facts: dict[str, Any]
    preview: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]


class _Raw(NamedTuple):
    """Examples as they are stored: `read(i)` gives a picture's bytes or an array, and a label."""

    what: str
    length: int
    read: Callable[[int], tuple[bytes | np.ndarray, int]]
    class_names: tuple[str, ...]
    name: Callable[[int], str] = str


class _Look(NamedTuple):
    shape: tuple[int, ...]
    kind: str
    low: float
    high: float
    digest: bytes
    label: int


def survey(config: DataConfig, progress: Progress = lambda done, total: None) -> Survey:
    """Reads every example of a data set and says what is there; nothing is resized or left out.

    The facts: examples, classes with their sizes, sizes, channels, value range, duplicates (of the
    same pixels, whatever file they are in) and what is unreadable. Raises UserError as opening the
    source does, and if nothing can be read.
    """
    raw = _raw(config)
    looks: dict[int, _Look] = {}
    broken: dict[int, Unreadable] = {}
    parts = [range(at, min(at + _PART, raw.length)) for at in range(0, raw.length, _PART)]
    with ThreadPoolExecutor(StreamSource.workers) as pool:
        for part, found in zip(parts, pool.map(lambda part: _try(raw, part), parts), strict=True):
            for index, each in zip(part, found, strict=True):
                if isinstance(each, Unreadable):
                    broken[index] = each
                else:
                    looks[index] = each
            progress(part.stop, raw.length)
    if not looks:
        first = next(iter(broken.values()))
        counted = f"{len(broken)} of {raw.length} {raw.what} can't be read"
        raise UserError(f"data: {counted}; the first is {first}; give others")
    return Survey(_facts(raw, looks, broken), *_preview(raw, looks), raw.class_names)


def guess(source: str, split: str = "train", data_dir: str | None = None) -> DataConfig:
    """Returns the data that a word means: an existing file or folder by what it is, or a TFDS set.

    Raises UserError if it is neither.
    """
    path = Path(source).expanduser()
    if not path.exists():
        endings = (*SUFFIXES, ".zip", ".npz", ".npy", ".py")
        if source.endswith(endings) or path.is_absolute() or source.startswith((".", "~")):
            raise UserError(f"{path} does not exist; name a folder, a zip, arrays or a TFDS set")
        return TfdsData(name=source, split=split, data_dir=data_dir)
    if path.suffix.lower() in SUFFIXES:
        return PictureData(path=str(path))
    if path.suffix.lower() in (".npz", ".npy"):
        return ArraysData(path=str(path))
    return FolderData(path=str(path))


def lines(facts: dict[str, Any]) -> dict[str, Any]:
    """Returns the facts as a table shows them: counts in a line, the longest ones cut short."""
    return {name: _line(value) for name, value in facts.items()}


def _line(value: Any) -> Any:
    if isinstance(value, dict):
        value = [f"{name}: {count:,}" for name, count in value.items()]
    if not isinstance(value, list):
        return value
    more = f", … ({len(value) - _NAMED} more)" if len(value) > _NAMED else ""
    return ", ".join(value[:_NAMED]) + more


def _facts(raw: _Raw, looks: dict[int, _Look], broken: dict[int, Unreadable]) -> dict[str, Any]:
    facts: dict[str, Any] = {"data": raw.what, "examples": raw.length}
    if raw.class_names:
        per_class = collections.Counter(look.label for look in looks.values())
        facts["classes"] = {name: per_class[i] for i, name in enumerate(raw.class_names)}
    sizes = collections.Counter("×".join(map(str, look.shape)) for look in looks.values())
    facts["sizes"] = dict(sizes.most_common())
    facts["channels"] = dict(
        collections.Counter(look.kind for look in looks.values()).most_common()
    )
    ends = np.array([(look.low, look.high) for look in looks.values()])
    # NumPy's least and greatest are NaN if anything is; Python's depend on where it stands.
    facts["least_value"] = _number(float(ends[:, 0].min()))
    facts["greatest_value"] = _number(float(ends[:, 1].max()))
    same: dict[bytes, list[int]] = {}
    for index, look in looks.items():
        same.setdefault(look.digest, []).append(index)
    copies = [group for group in same.values() if len(group) > 1]
    facts["duplicates"] = sum(len(group) - 1 for group in copies)
    if copies:
        facts["duplicates_as"] = [" = ".join(map(raw.name, group[:4])) for group in copies[:_NAMED]]
    facts["unreadable"] = len(broken)
    if broken:
        facts["unreadable_as"] = [str(error) for error in list(broken.values())[:_NAMED]]
    return facts


def _number(value: float) -> float | int | str:
    """A plain value; JSON has no word for NaN and infinity."""
    if not math.isfinite(value):
        return str(value)
    return int(value) if value.is_integer() else value


def _try(raw: _Raw, part: range) -> list[_Look | Unreadable]:
    found: list[_Look | Unreadable] = []
    for index in part:
        try:
            found.append(_look(*raw.read(index)))
        # Decoders raise whatever a damaged file leads them into.
        except Exception as error:
            found.append(Unreadable(raw.name(index), error))
    return found


def _look(item: bytes | np.ndarray, label: int) -> _Look:
    if isinstance(item, bytes):
        with open_picture_file(item) as image:
            kind = _KINDS.get(image.mode, image.mode)
            shown = upright(image)
            # A palette's numbers are no levels.
            plain = shown.convert("RGBA" if shown.has_transparency_data else "RGB")
            pixels = np.asarray(plain if shown.mode in ("P", "1") else shown)
        shape = pixels.shape[:2]
    else:
        pixels, shape = item, item.shape[:2]
        depth = item.shape[2] if item.ndim == 3 else 1
        kind = f"{depth} × {item.dtype}" if item.ndim > 1 else f"points of {item.dtype}"
    content = hashlib.blake2b(repr((pixels.shape, kind)).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    return _Look(
        shape, kind, float(pixels.min()), float(pixels.max()), content.digest(), int(label)
    )


def _preview(raw: _Raw, looks: dict[int, _Look]) -> tuple[np.ndarray, np.ndarray | None]:
    readable = list(looks)
    points = len(looks[readable[0]].shape) == 1
    count = min(len(readable), 2_000 if points else _PREVIEW)
    chosen = [readable[at] for at in np.linspace(0, len(readable) - 1, count).astype(int)]
    labels = np.array([looks[index].label for index in chosen]) if raw.class_names else None
    items = [raw.read(index)[0] for index in chosen]
    if points:
        return np.stack([np.asarray(item, np.float32) for item in items]), labels
    sides = [side for index in chosen for side in looks[index].shape]
    side = min(_PREVIEW_SIDE, max(sides))
    finite = [end for look in looks.values() for end in (look.low, look.high) if math.isfinite(end)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def tile(item: bytes | np.ndarray) -> np.ndarray:
        shape = (side, side, 4)
        if isinstance(item, bytes):
            return decode_picture(item, shape)
        if item.dtype != np.uint8:
            # NaN, which has no place between the ends, is black, as everywhere in plots.
            with np.errstate(invalid="ignore"):
                scaled = (item.astype(np.float64) - low) / ((high - low) or 1)
            item = np.rint(255 * np.clip(np.nan_to_num(scaled), 0, 1)).astype(np.uint8)
        return fit_pixels(item, shape)

    return np.stack([tile(item) for item in items]) / np.float32(127.5) - 1, labels


# --- the examples of each kind of source ----------------------------------------------------------


def _raw(config: DataConfig) -> _Raw:
    if isinstance(config, FolderData):
        return _raw_folder(config)
    if isinstance(config, TfdsData):
        folder, records, names = open_records(config)

        def read(index: int) -> tuple[bytes, int]:
            (record,) = records.__getitems__([index])
            return record["image"], int(record["label"]) if names else 0

        return _Raw(f"{config.split} of {folder}", len(records), read, names)
    if isinstance(config, ArraysData):
        path, examples, labels, names = read_arrays(config)
        are_points = examples.ndim == 2 and examples.shape[1] == 2
        examples = as_points(path, examples) if are_points else as_images(path, examples)
        numbers = np.zeros(len(examples), int) if labels is None else labels
        return _Raw(f"arrays of {path}", len(examples), lambda i: (examples[i], numbers[i]), names)
    if isinstance(config, PictureData):
        return _Raw(
            f"picture {config.path or 'flower.jpg'}", 1, lambda _: (read_picture(config), 0), ()
        )
    source = open_digits(config) if isinstance(config, DigitsData) else open_points(config)

    def gather(index: int) -> tuple[np.ndarray, int]:
        batch = source.gather(np.array([index]))
        label = 0 if batch.labels is None else int(batch.labels[0])
        return np.asarray(batch.examples[0]), label

    return _Raw(config.kind, len(source), gather, source.class_names)


def _raw_folder(config: FolderData) -> _Raw:
    root = Path(config.path).expanduser()
    names, read_bytes, _ = list_pictures(root)
    classes, labels = find_classes(names)

    def read(index: int) -> tuple[bytes, int]:
        return read_bytes(names[index]), 0 if labels is None else int(labels[index])

    return _Raw(f"pictures in {root}", len(names), read, classes, names.__getitem__)
