"""A NumPy file of arrays as a data set: images, or points in the plane."""

import math
import zipfile
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ddpm_jax.config import ArraysData
from ddpm_jax.data import loading
from ddpm_jax.data.cache import Origin
from ddpm_jax.data.pictures import fit_pixels
from ddpm_jax.data.source import ArraySource, StreamSource
from ddpm_jax.errors import UserError
from ddpm_jax.files import local_path

_CHUNK_BYTES = 2**26


def open_arrays(config: ArraysData) -> ArraySource | StreamSource:
    """Returns the examples of a .npy or .npz, uint8 `[H, W, C]` or float32 points `[2]`.

    Images that are not uint8 are scaled from `config.range` to 0 … 255 and rounded. Labels may be
    any whole numbers or words; the classes are their distinct values in order. Nothing is
    unpickled. Raises UserError if the file is missing or damaged, holds neither images nor points,
    has another number of labels, or has values outside its range.
    """
    path, examples, labels, names = read_arrays(config)
    if config.holds == "points":
        return ArraySource(as_points(path, examples), labels, names)
    images = as_images(path, examples)
    _check_values(path, images, config.range)
    if images.dtype == np.uint8 and config.range is None and _has_shape(images, config):
        return ArraySource(images, labels, names)

    def read(indices: np.ndarray) -> list[tuple[np.ndarray, int]]:
        chosen = [(index, _to_pixels(np.asarray(images[index]), config.range)) for index in indices]
        return [
            (fit_pixels(pixels, config.stored_shape), 0 if labels is None else int(labels[index]))
            for index, pixels in chosen
        ]

    stat = path.stat()
    settings = f"{config.examples} {config.labels} {config.range}"
    return StreamSource(
        read,
        length=len(images),
        shape=config.stored_shape,
        class_names=names,
        origin=Origin(f"arrays {path.resolve()} {settings}", f"{stat.st_size} {stat.st_mtime_ns}"),
    )


class ArrayFile(NamedTuple):
    """The content of a file: unchanged examples, and int32 labels `[N]` or None without classes."""

    path: Path
    examples: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]


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
            labels = _read_npy(local_path(config.labels), "data.labels")
    if examples.ndim == 0 or examples.size == 0:
        advice = "give one array that holds all examples"
        raise UserError(f"data.path: {path} has no examples: it is {examples.shape}; {advice}")
    return ArrayFile(path, examples, *_classes(path, labels, len(examples)))


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
    if labels.dtype.kind not in "iubUS":
        advice = "give whole numbers or words"
        raise UserError(f"data.labels: {path} has labels of type {labels.dtype}; {advice}")
    words = labels.astype(np.str_) if labels.dtype.kind == "S" else labels
    classes, numbers = np.unique(words, return_inverse=True)
    return numbers.astype(np.int32), tuple(str(name) for name in classes)


def as_points(path: Path, points: np.ndarray) -> np.ndarray:
    """Returns float32 `[N, 2]`; raises UserError for other arrays, or if not finite."""
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "fiu":
        what = f"{points.shape} of {points.dtype}"
        raise UserError(f"data.path: {path} holds {what}; points must be numbers [N, 2]")
    if not np.isfinite(points).all():
        raise UserError(f"data.path: {path} has points that are not finite; remove them")
    return points.astype(np.float32)


def as_images(path: Path, images: np.ndarray) -> np.ndarray:
    """Returns `[N, H, W, C]`, C = 1, 3 or 4; raises UserError for other arrays."""
    shape = images.shape
    if images.dtype.kind not in "fiub":
        what = "of Python objects" if images.dtype.hasobject else f"of {images.dtype}"
        raise UserError(f"data.path: {path} holds an array {what}; images must be numbers")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and shape[3] not in (1, 3, 4) and shape[1] in (1, 3, 4):
        advice = "move the channels last: numpy.moveaxis(x, 1, -1)"
        raise UserError(f"data.path: {path} holds {shape}, with channels first; {advice}")
    if images.ndim != 4 or shape[3] not in (1, 3, 4):
        advice = "images must be [N, H, W] or [N, H, W, 1|3|4]; points need data.holds points"
        raise UserError(f"data.path: {path} holds an array {shape}; {advice}")
    return images


def _has_shape(images: np.ndarray, config: ArraysData) -> bool:
    return images.shape[1:] == config.stored_shape


def _check_values(path: Path, images: np.ndarray, span: tuple[float, float] | None) -> None:
    if span is None and images.dtype == np.uint8:
        return
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


def _value_range(array: np.ndarray) -> tuple[float, float]:
    """Returns the least and the greatest value, both NaN if any is; reads a part at a time."""
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    parts = [array[at : at + rows] for at in range(0, len(array), rows)]
    # NumPy's min and max are NaN if a value is; Python's depend on the order of the values.
    low, high = np.array([(part.min(), part.max()) for part in parts], np.float64).T
    return float(low.min()), float(high.max())


def _to_pixels(image: np.ndarray, span: tuple[float, float] | None) -> np.ndarray:
    if span is None:
        return image
    black, white = span
    return np.rint((image.astype(np.float64) - black) * (255 / (white - black))).astype(np.uint8)
