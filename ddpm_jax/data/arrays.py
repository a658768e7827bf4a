"""A NumPy file of arrays as a data set: images, or points in the plane."""

import logging
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ddpm_jax.data import loading
from ddpm_jax.data.cache import origin_of
from ddpm_jax.data.classes import in_order
from ddpm_jax.data.findings import check_levels, scaling
from ddpm_jax.data.pictures import FEWER_LEVELS, ON_WHITE, TO_GREY, fit_pixels
from ddpm_jax.data.settings import ArraysData
from ddpm_jax.data.source import ArraySource, StreamSource
from ddpm_jax.errors import UserError
from ddpm_jax.files import local_path

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 2**26


def open_arrays(config: ArraysData) -> ArraySource | StreamSource:
    """Returns the examples of a .npy or .npz, uint8 `[H, W, C]` or float32 points `[2]`.

    C may be any number. Images that are not uint8 are scaled from `config.range` to 0 … 255 and
    rounded. Labels may be any whole numbers or words; the classes are their distinct values in
    natural order. Nothing is unpickled. Raises UserError if the file is missing or damaged, holds
    neither images nor points, has another number of labels, has values outside its range, or if
    its axes or its range are in doubt.
    """
    path, examples, labels, names, files = read_arrays(config)
    if config.holds == "points":
        return ArraySource(as_points(path, examples, config.dimensions), labels, names)
    labelled = labels is not None
    images = as_images(path, examples, config.axes, config.channels, labelled=labelled)
    _check_channels(path, images, config)
    span = _check_values(path, images, config.range)
    _report(path, images, span, config)
    if images.dtype == np.uint8 and span is None and images.shape[1:] == config.stored_shape:
        return ArraySource(images, labels, names)

    def read(indices: np.ndarray) -> list[tuple[np.ndarray, int]]:
        chosen = [(index, _to_pixels(np.asarray(images[index]), span)) for index in indices]
        transparent = config.show_channels is None
        return [
            (
                fit_pixels(pixels, config.stored_shape, transparent=transparent),
                0 if labels is None else int(labels[index]),
            )
            for index, pixels in chosen
        ]

    return StreamSource(
        read,
        length=len(images),
        shape=config.stored_shape,
        class_names=names,
        origin=origin_of(config, path, files),
    )


class ArrayFile(NamedTuple):
    """The content of a file: unchanged examples, and int32 labels `[N]` or None without classes.

    `files` are all that was read: the labels may lie in a file of their own.
    """

    path: Path
    examples: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    files: tuple[Path, ...]


def read_arrays(config: ArraysData) -> ArrayFile:
    """Returns the content of the file that the config names.

    A .npy larger than IN_MEMORY_BYTES is memory-mapped. Raises UserError if the file is unusable.
    """
    if not config.path:
        raise UserError("data.path is not set; it must be a .npz or .npy of arrays")
    path = local_path(config.path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"data.path: {path} {what}; give a .npz or .npy of arrays")
    files = (path,)
    if path.suffix.lower() == ".npz" or zipfile.is_zipfile(path):
        examples, labels = _read_npz(path, config)
    else:
        examples = _read_npy(path, "data.path")
        if config.examples is not None:
            advice = "leave out data.examples"
            raise UserError(f"data.examples: {path} is a single array, which has no name; {advice}")
        if config.labels is None:
            labels = None
        else:
            files = (path, local_path(config.labels))
            labels = _read_npy(files[1], "data.labels")
    if examples.ndim == 0 or examples.size == 0:
        advice = "give one array that holds all examples"
        raise UserError(f"data.path: {path} has no examples: it is {examples.shape}; {advice}")
    # A single image has no axis of examples.
    count = 1 if config.axes is not None and "N" not in config.axes else len(examples)
    return ArrayFile(path, examples, *_classes(path, labels, count), files)


# --- files ----------------------------------------------------------------------------------------


def _read_npy(path: Path, setting: str) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{setting}: {path} does not exist; give a .npy file")
    try:
        large = path.stat().st_size > loading.IN_MEMORY_BYTES
        with path.open("rb") as file:
            _check_header(file, path.stat().st_size)
            if not large:
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
        return np.load(path, allow_pickle=False, mmap_mode="r")
    # Damaged bytes can make NumPy raise any error.
    except Exception as error:
        raise _damaged(path, setting, error) from None


def _read_npz(path: Path, config: ArraysData) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry[:-4] for entry in archive.namelist() if entry.endswith(".npy")]
            for_labels = config.labels or ("labels" if "labels" in names else None)
            for setting, name in (("examples", config.examples), ("labels", for_labels)):
                if name is not None and name not in names:
                    has = ", ".join(names) or "none"
                    raise UserError(f"data.{setting}: {path} has no array {name!r}; it has {has}")
            name = config.examples or _only([each for each in names if each != for_labels], path)
            labels = None if for_labels is None else _member(archive, for_labels)
            return _member(archive, name), labels
    except UserError:
        raise
    except Exception as error:
        raise _damaged(path, "data.path", error) from None


def _only(names: list[str], path: Path) -> str:
    if not names:
        advice = "for pictures in a zip use configs/folder.py"
        raise UserError(f"data.path: {path} has no array of examples; {advice}")
    if len(names) > 1:
        choices = ", ".join(names)
        raise UserError(f"data.path: {path} has the arrays {choices}; name one in data.examples")
    return names[0]


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > loading.IN_MEMORY_BYTES:
        advice = "save it alone as a .npy with numpy.save, which needs no memory"
        size = f"{entry.file_size / 2**30:.1f} GiB"
        raise UserError(f"data.path: {name} in {archive.filename} has {size}; {advice}")
    # zipfile unpacks no more than the stated bytes, and compares their checksum.
    with archive.open(entry) as file:
        _check_header(file, entry.file_size)
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int) -> None:
    """Raises ValueError for an array of Python objects, or a file that is too short."""
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise ValueError("it does not begin like a NumPy array") from None
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its format {version[0]}.{version[1]} is for structured arrays")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not unpickled")
    count = int(np.prod([int(side) for side in shape], dtype=object))
    if count * dtype.itemsize > size:
        raise ValueError(f"its {shape} of {dtype} need more than its {size:,} bytes")


def _damaged(path: Path, setting: str, error: Exception) -> UserError:
    why = " ".join(str(error).split()) or type(error).__name__
    advice = "save plain numbers with numpy.save or numpy.savez"
    return UserError(f"{setting}: {path} can't be read ({why}); {advice}")


# --- their content --------------------------------------------------------------------------------


def _classes(
    path: Path, labels: np.ndarray | None, count: int
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if labels is None:
        return None, ()
    if labels.ndim == 2 and labels.shape[1] == 1:  # some data sets keep labels as a column
        labels = labels[:, 0]
    if labels.shape != (count,):
        what = f"data.labels: {path} has {count} examples and labels of shape {labels.shape}"
        raise UserError(f"{what}; give one label per example")
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels % 1 == 0).all():
        if (np.abs(labels) >= 2**53).any():
            raise UserError(f"data.labels: {path} has labels of 2^53 or more; give smaller numbers")
        labels = labels.astype(np.int64)  # some programs write whole numbers as floats
    if labels.dtype.kind not in "iubUS":
        advice = "give whole numbers or words"
        raise UserError(f"data.labels: {path} has labels of type {labels.dtype}; {advice}")
    # A file of HDF5's or C's words has bytes.
    words = labels
    if labels.dtype.kind == "S":
        words = np.char.decode(labels, "utf-8", "backslashreplace")
    values, places = np.unique(words, return_inverse=True)
    found = [str(value) for value in values]
    classes = in_order(found) if words.dtype.kind == "U" else tuple(found)
    return np.array([classes.index(name) for name in found], np.int32)[places], classes


def as_points(path: Path, points: np.ndarray, dimensions: int) -> np.ndarray:
    """Returns float32 `[N, dimensions]`; raises UserError for other arrays, or if not finite."""
    if points.ndim != 2 or points.shape[1] != dimensions or points.dtype.kind not in "fiu":
        have, need = f"{points.shape} of {points.dtype}", f"numbers [N, {dimensions}]"
        fits = points.ndim == 2 and points.shape[1] > 1
        mend = f": set data.dimensions to {points.shape[1]}" if fits else ""
        raise UserError(f"data.path: {path} holds {have}; points must be {need}{mend}")
    if not np.isfinite(points).all():
        raise UserError(f"data.path: {path} has points that are not finite; remove them")
    return points.astype(np.float32)


def as_images(
    path: Path,
    images: np.ndarray,
    axes: str | None = None,
    channels: int | None = None,
    *,
    labelled: bool = False,
) -> np.ndarray:
    """Returns `[N, H, W, C]`; raises UserError for other arrays, and if the axes are in doubt.

    `channels` is the number that is expected; None if any may be right. `labelled` arrays have a
    label for each index of their first axis.
    """
    if images.dtype.kind not in "fiub":
        what = "of Python objects" if images.dtype.hasobject else f"of {images.dtype}"
        raise UserError(f"data.path: {path} holds an array {what}; images must be numbers")
    if axes is None:
        known = labelled and images.ndim == 3
        axes = "NHW" if known else _find_axes(path, images.shape, channels)
    if len(axes) != images.ndim:
        raise UserError(f"data.axes is {axes}, but {path} holds {_by(images.shape)}; name its axes")
    images = images.transpose([axes.index(axis) for axis in "NHWC" if axis in axes])
    return np.expand_dims(images, [at for at, axis in enumerate("NHWC") if axis not in axes])


def _find_axes(path: Path, shape: tuple[int, ...], channels: int | None) -> str:
    """Returns the axes of a shape that has one meaning only; raises UserError for others."""
    usual = {1, 2, 3, 4, channels or 1}
    if len(shape) == 2:
        advice = "points need data.holds points, and a single grey image data.axes HW"
        raise UserError(f"data.path: {path} holds an array {_by(shape)}; {advice}")
    if len(shape) == 3:
        possible = {"NHW": f"{shape[0]} grey images of {_by(shape[1:])}"}
        if shape[2] in usual:
            possible["HWC"] = f"one image of {_by(shape[:2])} with {shape[2]} channels"
        if shape[0] in usual - {1}:
            possible["CHW"] = f"one image of {_by(shape[1:])} with {shape[0]} channels"
    elif len(shape) == 4:
        exact = channels in (shape[1], shape[3])
        wanted = {channels} if exact else {1, 3, 4}
        possible = {"NHWC": f"images of {_by(shape[1:3])} with {shape[3]} channels"}
        if shape[1] in wanted and (exact or shape[3] not in wanted):
            possible["NCHW"] = f"images of {_by(shape[2:])} with {shape[1]} channels"
    else:
        advice = "images must be [N, H, W] or [N, H, W, C]"
        raise UserError(f"data.path: {path} holds an array {_by(shape)}; {advice}")
    if len(possible) > 1:
        meanings = ", or ".join(f"{what} (data.axes {axes})" for axes, what in possible.items())
        raise UserError(f"data.path: {path} holds {_by(shape)}, which may be {meanings}")
    return next(iter(possible))


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _check_channels(path: Path, images: np.ndarray, config: ArraysData) -> None:
    has, wanted = images.shape[3], config.channels
    if has != wanted and not {has, wanted} <= {1, 3, 4}:
        advice = f"set data.channels to {has}"
        raise UserError(f"data.channels is {wanted}, but the images in {path} have {has}; {advice}")


def _report(
    path: Path, images: np.ndarray, span: tuple[float, float] | None, config: ArraysData
) -> None:
    """Warns in one line of all that makes the examples differ from the array."""
    changes = scaling(images.shape[1:3], config.stored_shape)
    if span is not None and images.dtype not in (np.uint8, np.bool_):
        changes.append(f"{FEWER_LEVELS} from {span[0]:g} to {span[1]:g}")
    has, wanted = images.shape[3], config.channels
    if has == 4 and wanted in (1, 3):
        changes.append(ON_WHITE)
    if has in (3, 4) and wanted == 1:
        changes.append(TO_GREY)
    if changes:
        what = f"{len(images):,} images of {_by(images.shape[1:])}, {images.dtype}"
        _log.warning("arrays of %s: %s, are %s", path, what, ", ".join(changes))


def _check_values(
    path: Path, images: np.ndarray, span: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Returns the values of black and white, or None for those of uint8.

    Raises UserError if they are in doubt, or if there are other values.
    """
    if span is None and images.dtype == np.bool_:
        return 0.0, 1.0
    if span is None and images.dtype == np.uint8:
        check_levels(f"the uint8 images in {path}", 8, _greatest(images))
        return None
    low, high = _value_range(images)
    if math.isnan(low):
        raise UserError(f"data.path: {path} has values that are NaN; fix or remove them")
    if span is None:
        advice = "give the values of black and white, for example data.range 0 1"
        what = f"{images.dtype} from {low:g} to {high:g}"
        raise UserError(f"data.range is None, but {path} holds {what}; {advice}")
    if low < min(span) or high > max(span):
        advice = "widen it, or fix the values"
        raise UserError(f"data.range is {span}, but {path} has {low:g} to {high:g}; {advice}")
    return span


def _greatest(images: np.ndarray) -> int:
    """Returns the greatest of uint8 levels, or the first found that can't be in doubt."""
    greatest = 0
    for part in _parts(images):
        greatest = max(greatest, int(part.max()))
        if greatest > 127:
            break
    return greatest


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields an array in parts that fit in memory."""
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    return (array[at : at + rows] for at in range(0, len(array), rows))


def _value_range(array: np.ndarray) -> tuple[float, float]:
    """Returns the least and the greatest value, both NaN if any is; reads a part at a time."""
    # NumPy's min and max are NaN if a value is; Python's depend on the order of the values.
    low, high = np.array([(part.min(), part.max()) for part in _parts(array)], np.float64).T
    return float(low.min()), float(high.max())


def _to_pixels(image: np.ndarray, span: tuple[float, float] | None) -> np.ndarray:
    if span is None:
        return image
    black, white = span
    return np.rint((image.astype(np.float64) - black) * (255 / (white - black))).astype(np.uint8)
