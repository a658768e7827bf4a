"""Inspection of a data set: every example is read once, as it is stored, and counted."""

import collections
import dataclasses
import hashlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config import (
    ArraysData,
    DataConfig,
    FolderData,
    PictureData,
    TfdsData,
    describe_shown,
    shown_channels,
)
from ddpm_jax.data import SOURCES
from ddpm_jax.data.arrays import as_images, as_points, read_arrays
from ddpm_jax.data.folder import Page, find_classes, find_pages
from ddpm_jax.data.formats import count_pages, open_picture_file, upright
from ddpm_jax.data.listing import list_pictures
from ddpm_jax.data.picture import read_picture
from ddpm_jax.data.pictures import RangeError, decode, fit_pixels
from ddpm_jax.data.source import StreamSource, Unreadable, unreadable
from ddpm_jax.data.tfds import open_records
from ddpm_jax.errors import UserError
from ddpm_jax.files import local_path
from ddpm_jax.sampling.samples import visible

Progress = Callable[[int, int], None]

_KINDS = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I;16": "grey in 16 bits",
    "I;16B": "grey in 16 bits",
    "I": "grey in 32 bits",
    "F": "grey in floating point",
    "P": "palette",
    "RGB": "colour",
    "RGBA": "colour with transparency",
}
_PART = 32
_PREVIEW_IMAGES, _PREVIEW_POINTS, _PREVIEW_SIDE = 64, 2_000, 64
_NAMED = 10
"""Entries of a list that are shown by name; the others are counted."""
_OF_FILES = ("endings", "left_out")


class Inspection(NamedTuple):
    """The facts about a data set, as plain values by name, and some examples to look at.

    `preview` are images `[n, H, W, C]` or points `[n, 2]` on the scale of `plots`, taken evenly
    from the whole; `labels` is int `[n]` or None.
    """

    facts: dict[str, Any]
    preview: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]


class _StoredExamples(NamedTuple):
    """Examples as they are stored: `read(i)` gives a picture's bytes or an array, and a label."""

    description: str
    length: int
    read: Callable[[int], tuple[bytes | np.ndarray, int]]
    class_names: tuple[str, ...]
    name: Callable[[int], str] = str
    page: Callable[[int], Page] = lambda index: Page("", None)
    """The file of an example, and the page in it."""
    left_out: dict[str, int] | None = None
    """How many other files there are, by the reason; None if the data is one file."""
    config: DataConfig | None = None
    """The config of images that may have any number of channels."""


class _ExampleFacts(NamedTuple):
    shape: tuple[int, ...]
    kind: str
    low: float
    high: float
    digest: bytes
    """A hash of the pixels, not of the file."""
    label: int
    pages: int = 1


def inspect(config: DataConfig, progress: Progress = lambda done, total: None) -> Inspection:
    """Reads every example of a data set and counts what is there; resizes and skips nothing.

    The facts are the number of examples, their files by the ending, other files by the reason why
    they are left out, classes with their sizes, image sizes, channels, range of values, files with
    several pages, duplicates (equal pixels, in whatever files) and unreadable examples. Raises
    UserError as opening the source does, and if no example can be read.
    """
    stored = _stored(config)
    readable: dict[int, _ExampleFacts] = {}
    unreadable: dict[int, Unreadable] = {}
    count = stored.length
    parts = [range(at, min(at + _PART, count)) for at in range(0, count, _PART)]
    with ThreadPoolExecutor(StreamSource.workers) as pool:
        for part, found in zip(
            parts, pool.map(lambda part: _read(stored, part), parts), strict=True
        ):
            for index, each in zip(part, found, strict=True):
                if isinstance(each, Unreadable):
                    unreadable[index] = each
                else:
                    readable[index] = each
            progress(part.stop, count)
    if not readable:
        first = next(iter(unreadable.values()))
        counted = f"{len(unreadable)} of {count} {stored.description} can't be read"
        raise UserError(f"data: {counted}; the first is {first}; give others")
    facts = _facts(stored, readable, unreadable)
    return Inspection(facts, *_preview(stored, readable), stored.class_names)


def summarize(facts: dict[str, Any]) -> dict[str, Any]:
    """Returns the facts with each list or table of counts as one line, long ones cut short.

    Those that account for the files are whole.
    """
    points = all(kind.startswith("points") for kind in facts.get("channels", ("",)))
    words = {"sizes": "numbers of a point" if points else "height×width×channels"}
    return {
        words.get(name, name): _one_line(value, len(value) if name in _OF_FILES else _NAMED)
        for name, value in facts.items()
    }


def _one_line(value: Any, most: int) -> Any:
    if isinstance(value, dict):
        value = [f"{name}: {count:,}" for name, count in value.items()]
    if not isinstance(value, list):
        return value
    more = f", … ({len(value) - most} more)" if len(value) > most else ""
    return ", ".join(value[:most]) + more


def _facts(
    stored: _StoredExamples,
    readable: dict[int, _ExampleFacts],
    unreadable: dict[int, Unreadable],
) -> dict[str, Any]:
    facts: dict[str, Any] = {"data": stored.description, "examples": stored.length}
    if stored.left_out is not None:
        files = {stored.page(index).name for index in range(stored.length)}
        endings = collections.Counter(PurePath(name).suffix.lower() or "none" for name in files)
        facts["files"] = len(files) + sum(stored.left_out.values())
        facts["endings"] = dict(endings.most_common())
        facts["left_out"] = stored.left_out
    if stored.class_names:
        per_class = collections.Counter(each.label for each in readable.values())
        facts["classes"] = {name: per_class[i] for i, name in enumerate(stored.class_names)}
    sizes = collections.Counter("×".join(map(str, each.shape)) for each in readable.values())
    facts["sizes"] = dict(sizes.most_common())
    kinds = collections.Counter(each.kind for each in readable.values())
    facts["channels"] = dict(kinds.most_common())
    if shown := None if stored.config is None else describe_shown(stored.config):
        facts["shown"] = shown
    ends = np.array([(each.low, each.high) for each in readable.values()])
    # NumPy's min is NaN if any value is; Python's depends on the order of the values.
    facts["least_value"] = _number(float(ends[:, 0].min()))
    facts["greatest_value"] = _number(float(ends[:, 1].max()))
    several = [each.pages for each in readable.values() if each.pages > 1]
    if several:
        facts["files_with_pages"] = {"files": len(several), "pages": sum(several)}
    same: dict[bytes, list[int]] = {}
    for index, each in readable.items():
        same.setdefault(each.digest, []).append(index)
    copies = [group for group in same.values() if len(group) > 1]
    facts["duplicates"] = sum(len(group) - 1 for group in copies)
    if copies:
        facts["duplicates_as"] = [
            " = ".join(map(stored.name, group[:4])) for group in copies[:_NAMED]
        ]
    facts["unreadable"] = len(unreadable)
    if unreadable:
        facts["unreadable_as"] = [str(error) for error in list(unreadable.values())[:_NAMED]]
    return facts


def _number(value: float) -> float | int | str:
    """Returns a value that JSON can hold; it has neither NaN nor infinity."""
    if not math.isfinite(value):
        return str(value)
    return int(value) if value.is_integer() else value


def _read(stored: _StoredExamples, part: range) -> list[_ExampleFacts | Unreadable]:
    found: list[_ExampleFacts | Unreadable] = []
    for index in part:
        try:
            item, label = stored.read(index)
            found.append(_example_facts(item, label, stored.page(index)))
        # A damaged file can make a decoder raise any exception.
        except Exception as error:
            found.append(unreadable(stored.name(index), error))
    return found


def _example_facts(item: bytes | np.ndarray, label: int, page: Page) -> _ExampleFacts:
    pages = 1
    if isinstance(item, bytes):
        with open_picture_file(item, page.name) as image:
            if page.page is None:
                pages = count_pages(image)
            else:
                image.seek(page.page)
            kind = _KINDS.get(image.mode) or image.mode
            shown = upright(image)
            # The numbers of a palette are indices, not intensities.
            plain = shown.convert("RGBA" if shown.has_transparency_data else "RGB")
            pixels = np.asarray(plain if shown.mode in ("P", "1") else shown)
        shape = pixels.shape[:2]
    else:
        pixels, shape = item, item.shape[:2]
        depth = item.shape[2] if item.ndim == 3 else 1
        kind = f"{depth} × {item.dtype}" if item.ndim > 1 else f"points of {item.dtype}"
    content = hashlib.blake2b(repr((pixels.shape, kind)).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    ends = float(pixels.min()), float(pixels.max())
    return _ExampleFacts(shape, kind, *ends, content.digest(), int(label), pages)


def _preview(
    stored: _StoredExamples, readable: dict[int, _ExampleFacts]
) -> tuple[np.ndarray, np.ndarray | None]:
    indices = list(readable)
    points = len(readable[indices[0]].shape) == 1
    count = min(len(indices), _PREVIEW_POINTS if points else _PREVIEW_IMAGES)
    chosen = [indices[at] for at in np.linspace(0, len(indices) - 1, count).astype(int)]
    labels = np.array([readable[index].label for index in chosen]) if stored.class_names else None
    items = {index: stored.read(index)[0] for index in chosen}
    if points:
        found = np.stack([np.asarray(item, np.float32) for item in items.values()])
        shown = None if stored.config is None else shown_channels(stored.config)
        return visible(found, shown), labels
    sides = [side for index in chosen for side in readable[index].shape]
    side = min(_PREVIEW_SIDE, max(sides))
    ends = [end for each in readable.values() for end in (each.low, each.high)]
    finite = [end for end in ends if math.isfinite(end)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    shown = None if stored.config is None else shown_channels(stored.config)

    def tile(index: int, item: bytes | np.ndarray) -> np.ndarray:
        shape = (side, side, 4)
        if isinstance(item, bytes):
            return _tile(item, shape, readable[index], stored.page(index))
        item = item if shown is None else item[..., list(shown)]
        if item.dtype != np.uint8:
            # NaN is black, as everywhere in plots.
            with np.errstate(invalid="ignore"):
                scaled = (item.astype(np.float64) - low) / ((high - low) or 1)
            item = np.rint(255 * np.clip(np.nan_to_num(scaled), 0, 1)).astype(np.uint8)
        return fit_pixels(item, shape)

    tiles = np.stack([tile(index, item) for index, item in items.items()])
    return tiles / np.float32(127.5) - 1, labels


def _tile(picture: bytes, shape: tuple[int, ...], facts: _ExampleFacts, page: Page) -> np.ndarray:
    """Returns a picture's pixels; levels whose black and white are not known are stretched."""
    try:
        return decode(picture, shape, **page._asdict()).pixels
    except RangeError:
        span = (facts.low, facts.high if facts.high > facts.low else facts.low + 1)
        return decode(picture, shape, **page._asdict(), span=span).pixels


# --- the examples of each kind of source ----------------------------------------------------------


def _stored(config: DataConfig) -> _StoredExamples:
    if isinstance(config, FolderData):
        return _stored_folder(config)
    if isinstance(config, TfdsData):
        folder, records, names = open_records(config)

        def read(index: int) -> tuple[bytes, int]:
            (record,) = records.__getitems__([index])
            return record["image"], int(record["label"]) if names else 0

        return _StoredExamples(f"{config.split} of {folder}", len(records), read, names)
    if isinstance(config, ArraysData):
        path, examples, labels, names, _ = read_arrays(config)
        if config.holds == "points" or (examples.ndim == 2 and examples.shape[1] == 2):
            dimensions = examples.shape[1] if examples.ndim == 2 else config.dimensions
            config = dataclasses.replace(config, holds="points", dimensions=dimensions)
            examples = as_points(path, examples, dimensions)
        else:
            examples = as_images(path, examples, config.axes, labelled=labels is not None)
            config = dataclasses.replace(config, channels=examples.shape[3])
        numbers = np.zeros(len(examples), int) if labels is None else labels
        return _StoredExamples(
            f"arrays of {path}",
            len(examples),
            lambda i: (examples[i], numbers[i]),
            names,
            config=config,
        )
    if isinstance(config, PictureData):
        name = config.path or "flower.jpg"
        return _StoredExamples(
            f"picture {name}",
            1,
            lambda _: (read_picture(config), 0),
            (),
            page=lambda _: Page(name, None),
        )
    source = SOURCES[config.kind](config)

    def gather(index: int) -> tuple[np.ndarray, int]:
        batch = source.gather(np.array([index]))
        label = 0 if batch.labels is None else int(batch.labels[0])
        return np.asarray(batch.examples[0]), label

    return _StoredExamples(config.kind, len(source), gather, source.class_names)


def _stored_folder(config: FolderData) -> _StoredExamples:
    root = local_path(config.path)
    listing = list_pictures(root)
    pages = find_pages(listing, config.pages)
    classes, labels = find_classes([page.name for page in pages])

    def read(index: int) -> tuple[bytes, int]:
        return listing.read(pages[index].name), 0 if labels is None else int(labels[index])

    return _StoredExamples(
        f"pictures in {root}",
        len(pages),
        read,
        classes,
        name=lambda index: str(pages[index]),
        page=pages.__getitem__,
        left_out=listing.left_out,
    )
