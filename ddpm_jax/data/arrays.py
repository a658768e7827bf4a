"""Arrays in a file of NumPy's as a data set: images, or points of the plane."""

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

_CHUNK_BYTES = 2**26


def open_arrays(config: ArraysData) -> ArraySource | StreamSource:
    """Returns the examples of a .npy or .npz, uint8 `[H, W, C]` or float32 points `[2]`.

    Images of numbers other than uint8 are brought from `config.range` to 0 … 255 and rounded.
    Labels may be any whole numbers or words: the classes are their distinct values in order.
    Nothing is unpickled. Raises UserError if the file is missing or damaged, or if what it holds
    is neither images nor points, has labels of another number, or values outside its range.
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


class Arrays(NamedTuple):
    """What a file holds: examples as they are, and int32 labels `[N]` or None with no classes."""

    path: Path
    examples: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]


def read_arrays(config: ArraysData) -> Arrays:
    """Returns the arrays of the file that the config names.

    A .npy that is larger than IN_MEMORY_BYTES is mapped, not loaded. Raises UserError.
    """
    if not config.path:
        raise UserError("data.path is not set; give a .npz or .npy of arrays: --data.path FILE")
    path = Path(config.path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"data.path: {path} {what}; give a .npz or .npy of arrays")
    if path.suffix.lower() == ".npz" or zipfile.is_zipfile(path):
        examples, labels = _read_npz(path, config)
    else:
        examples = _read_npy(path, "data.path")
        if config.examples is not None:
            mend = "leave out data.examples"
            raise UserError(f"data.examples: {path} is one array, without names; {mend}")
        if config.labels is None:
            labels = None
        else:
            labels = _read_npy(Path(config.labels).expanduser(), "data.labels")
    if examples.ndim == 0 or examples.size == 0:
        mend = "give one array of all of them"
        raise UserError(f"data.path: {path} has no examples in its {examples.shape}; {mend}")
    return Arrays(path, examples, *_classes(path, labels, len(examples)))


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
    # NumPy raises the errors of whatever the bytes lead it into.
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
        mend = "pictures in a zip are read with configs/folder.py"
        raise UserError(f"data.path: {path} has no arrays of examples in it; {mend}")
    if len(names) > 1:
        choices = ", ".join(names)
        raise UserError(f"data.path: {path} has the arrays {choices}; name one: --data.examples")
    return names[0]


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > loading.IN_MEMORY_BYTES:
        mend = "save it alone with numpy.save, as a .npy is read in place"
        size = f"{entry.file_size / 2**30:.1f} GiB"
        raise UserError(f"data.path: {archive.filename} has {size} in {name}; {mend}")
    # No more than the promised bytes are ever unpacked, and their checksum is compared.
    with archive.open(entry) as file:
        _check_header(file, entry.file_size)
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int) -> None:
    """Raises ValueError for an array of Python objects, or one that the file is too short for."""
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise ValueError("it begins like no array of NumPy's") from None
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its format {version[0]}.{version[1]} is for names that data has not")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    count = int(np.prod([int(side) for side in shape], dtype=object))
    if count * dtype.itemsize > size:
        raise ValueError(f"its {shape} of {dtype} are more than its {size:,} bytes")


def _damaged(path: Path, setting: str, error: Exception) -> UserError:
    why = " ".join(str(error).split()) or type(error).__name__
    mend = "save it with numpy.save or numpy.savez, of plain numbers"
    return UserError(f"{setting}: {path} can't be read ({why}); {mend}")


# --- what they hold -------------------------------------------------------------------------------


def _classes(
    path: Path, labels: np.ndarray | None, count: int
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if labels is None:
        return None, ()
    if labels.ndim == 2 and labels.shape[1] == 1:  # a column, as some sets keep them
        labels = labels[:, 0]
    if labels.shape != (count,):
        what = f"data.labels: {path} has {count} examples and labels of the shape {labels.shape}"
        raise UserError(f"{what}; give one for each")
    if labels.dtype.kind not in "iubUS":
        mend = "give whole numbers or words"
        raise UserError(f"data.labels: {path} has labels of {labels.dtype}; {mend}")
    words = labels.astype(np.str_) if labels.dtype.kind == "S" else labels
    classes, numbers = np.unique(words, return_inverse=True)
    return numbers.astype(np.int32), tuple(str(name) for name in classes)


def as_points(path: Path, points: np.ndarray) -> np.ndarray:
    """Returns float32 `[N, 2]`; raises UserError for anything else, or if one is not finite."""
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "fiu":
        what = f"{points.shape} of {points.dtype}"
        raise UserError(f"data.path: {path} holds {what}; points are numbers [N, 2]")
    if not np.isfinite(points).all():
        raise UserError(f"data.path: {path} has points that are not finite; leave them out")
    return points.astype(np.float32)


def as_images(path: Path, images: np.ndarray) -> np.ndarray:
    """Returns `[N, H, W, C]`, C = 1, 3 or 4; raises UserError for anything else."""
    shape = images.shape
    if images.dtype.kind not in "fiub":
        what = "of Python objects" if images.dtype.hasobject else f"of {images.dtype}"
        raise UserError(f"data.path: {path} holds an array {what}; images are numbers")
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and shape[3] not in (1, 3, 4) and shape[1] in (1, 3, 4):
        mend = "move the channels last: numpy.moveaxis(x, 1, -1)"
        raise UserError(f"data.path: {path} holds {shape}, channels first; {mend}")
    if images.ndim != 4 or shape[3] not in (1, 3, 4):
        mend = "images are [N, H, W] or [N, H, W, 1|3|4]; points need --data.holds points"
        raise UserError(f"data.path: {path} holds an array {shape}; {mend}")
    return images


def _has_shape(images: np.ndarray, config: ArraysData) -> bool:
    return images.shape[1:] == config.stored_shape


def _check_values(path: Path, images: np.ndarray, span: tuple[float, float] | None) -> None:
    if span is None and images.dtype == np.uint8:
        return
    low, high = _value_range(images)
    if math.isnan(low):
        raise UserError(f"data.path: {path} has values that are NaN; mend them, or leave them out")
    if span is None:
        mend = "say which are black and white: --data.range 0 1, or as it is"
        what = f"{images.dtype} from {low:g} to {high:g}"
        raise UserError(f"data.range is None, and {path} holds {what}; {mend}")
    if low < min(span) or high > max(span):
        mend = "widen it, or mend the values"
        raise UserError(f"data.range is {span}, and {path} has {low:g} to {high:g}; {mend}")


def _value_range(array: np.ndarray) -> tuple[float, float]:
    """Returns the least and the greatest number, both NaN if one is; a part at a time."""
    rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    parts = [array[at : at + rows] for at in range(0, len(array), rows)]
    # NumPy's least and greatest are NaN if anything is; Python's depend on where it stands.
    low, high = np.array([(part.min(), part.max()) for part in parts], np.float64).T
    return float(low.min()), float(high.max())


def _to_pixels(image: np.ndarray, span: tuple[float, float] | None) -> np.ndarray:
    if span is None:
        return image
    black, white = span
    return np.rint((image.astype(np.float64) - black) * (255 / (white - black))).astype(np.uint8)
