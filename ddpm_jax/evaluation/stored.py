"""Samples and statistics from anywhere: files of this package, of others, and pictures."""

import io
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ddpm_jax.config import ArraysData, DataConfig, FolderData, load_file, loads, override
from ddpm_jax.config.files import SHIPPED
from ddpm_jax.data import describe_source
from ddpm_jax.data.formats import open_picture_file, upright
from ddpm_jax.data.listing import list_pictures
from ddpm_jax.data.recognition import recognize
from ddpm_jax.data.source import ArraySource, StreamSource
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.sets import ExampleSet, Statistics, set_of_data
from ddpm_jax.evaluation.statistics import Moments
from ddpm_jax.files import StoragePath, sha256, storage_path
from ddpm_jax.sampling.files import class_names_in, read_pixels, read_samples
from ddpm_jax.sampling.shards import ABOUT, ShardSource, read_about


def open_samples(path: str | StoragePath) -> ExampleSet:
    """Opens samples: a folder of numbered files or of pictures, a zip of these, or a .npz.

    The .npz is one of `ddpm sample`, or has images uint8 `[N, H, W, C]` as `arr_0` and perhaps
    their labels as `arr_1`. Pictures keep their size, which must be the same for all. Raises
    UserError for anything else.
    """
    path = storage_path(path)
    if (path / ABOUT).is_file():
        return ExampleSet(ShardSource(path), {"samples": str(path), **read_about(path / ABOUT)})
    if path.suffix != ".npz":
        return set_of_data(pictures_of_one_size(Path(str(path))))
    found = (read_pixels if "arr_0" in arrays_in(path) else read_samples)(path)
    names = class_names_in(found)
    source = ArraySource(found["samples"], found["labels"] if names else None, names)
    return ExampleSet(source, {"samples": str(path), **describe_source(source)})


def arrays_in(path: StoragePath) -> tuple[str, ...]:
    """Returns the names of the arrays in a .npz; raises UserError if it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a file of samples or of statistics") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} can't be read as a .npz ({error}); write it again") from None


def arrays_of(path: StoragePath) -> dict[str, np.ndarray]:
    """Returns all arrays of a small .npz; raises UserError if it can't be read."""
    arrays_in(path)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} can't be read as a .npz ({error}); write it again") from None


def pictures_of_one_size(path: Path) -> FolderData:
    """Returns the settings of a folder or zip of pictures of one size, in this size.

    Raises UserError if there are none, or if they differ in size.
    """
    listing = list_pictures(path)

    def size(name: str) -> tuple[tuple[int, int], bool] | None:
        try:
            with open_picture_file(listing.read(name), name) as image:
                width, height = upright(image).size
                return (height, width), image.mode in ("1", "L", "I;16", "I", "F")
        # A damaged file can make a decoder raise any error; reading all of them counts it.
        except Exception:
            return None

    with ThreadPoolExecutor(StreamSource.workers) as pool:
        found = dict(zip(listing.names, pool.map(size, listing.names), strict=True))
    readable = {name: each for name, each in found.items() if each is not None}
    if not readable:
        raise UserError(f"{path}: none of its {len(found)} pictures can be read")
    (usual, _), *others = Counter(each for each, _ in readable.values()).most_common()
    for name, (own, _) in readable.items():
        if others and own != usual:
            here, most = (f"{h}×{w}" for h, w in (own, usual))
            raise UserError(f"{path}: {name} is {here}, and most are {most}; give one size")
    grey = all(each for _, each in readable.values())
    return FolderData(path=str(path), image_size=usual, channels=1 if grey else 3)


def read_statistics(path: StoragePath) -> Statistics:
    """Returns the mean `mu` `[D]` and covariance `sigma` `[D, D]` of a .npz, as other tools write.

    Raises UserError if they are missing, of other shapes, or not finite.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        what = f"{path} can't be read as statistics mu and sigma ({error})"
        raise UserError(f"{what}; write it again") from None
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        have = f"mu {mean.shape} and sigma {covariance.shape}"
        raise UserError(f"{path} has {have}; they must be [D] and [D, D]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path} has statistics that are not finite; compute them again")
    # Of two members, the covariance is the summed products.
    known = Moments(np.array(2), mean, covariance)
    return Statistics(known, {"statistics": str(path), "sha256": sha256(path)})


def find_reference(named: str, shape: tuple[int, ...]) -> DataConfig | Statistics:
    """Returns the real examples that a path or a name stands for, or their statistics.

    A .npz with `mu` holds statistics; a config, a run and a shipped config's name stand for their
    data. Images get the size and the channels of the samples, whose `shape` is given. Raises
    UserError for what is none of these.
    """
    path = storage_path(named)
    if path.suffix == ".npz" and "mu" in arrays_in(path):
        return read_statistics(path)
    if (path / "config.json").is_file():
        data = loads((path / "config.json").read_bytes(), str(path / "config.json")).data
    elif path.suffix == ".py" or (not path.exists() and (SHIPPED / f"{named}.py").is_file()):
        data = load_file(named).data
    else:
        data = recognize(named)
    if len(shape) == 3 and hasattr(data, "image_size"):
        return override(data, {"image_size": shape[:2], "channels": shape[2]})
    if len(shape) == 1 and isinstance(data, ArraysData):
        return override(data, {"holds": "points", "dimensions": shape[0]})
    return data
