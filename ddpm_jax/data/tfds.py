"""Image sets of tensorflow-datasets: read without TensorFlow and without a network.

TensorFlow is needed once a data set, by `prepare`, to write the files that are read here.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config import TfdsData
from ddpm_jax.data.cache import Origin
from ddpm_jax.data.pictures import decode_picture
from ddpm_jax.data.source import StreamSource
from ddpm_jax.errors import UserError, nearest

# NAME, NAME/CONFIG, each with :VERSION behind it or without.
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class Records(NamedTuple):
    """A prepared set whose pictures are still encoded: each record has an `image`, in bytes.

    `class_names` are those of its `label`; empty if it has none.
    """

    folder: Path
    records: Any
    class_names: tuple[str, ...]


def open_records(config: TfdsData) -> Records:
    """Returns a prepared TFDS set; raises UserError as `open_tfds` does."""
    import tensorflow_datasets as tfds

    folder = _prepared(config.name, _root(config.data_dir))
    try:
        builder = tfds.builder_from_directory(folder)
        features = _features(builder)
    # TFDS raises the errors of whatever library stumbled over the files.
    except Exception as error:
        raise _damaged(folder, config, error) from error
    image, label = features.get("image"), features.get("label")
    if not (isinstance(image, tfds.features.Image) and image.np_dtype in (np.uint8, np.uint16)):
        named = ", ".join(features)
        raise UserError(f"data.name: {config.name} has no `image` of pixels; its features: {named}")
    names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    # Every picture stays encoded: those that are not asked for would cost the most.
    pictures = [name for name, kind in features.items() if isinstance(kind, tfds.features.Image)]
    records = _records(builder, config, dict.fromkeys(pictures, tfds.decode.SkipDecoding()))
    return Records(folder, records, names)


def open_tfds(config: TfdsData) -> StreamSource:
    """Returns the images of a prepared TFDS set, uint8 `[H, W, C]`, in the order of its files.

    Labels are its `label` feature, if that is a class. Raises UserError if the set is unknown, not
    prepared, damaged, has no images, or has no such split.
    """
    folder, records, names = open_records(config)

    def read(indices: np.ndarray) -> list[tuple[np.ndarray, int]]:
        try:
            found = records.__getitems__(indices.tolist())
            images = [decode_picture(record["image"], config.stored_shape) for record in found]
        except Exception as error:
            raise _damaged(folder, config, error) from error
        if not names:
            return [(image, 0) for image in images]
        labels = [int(record["label"]) for record in found]
        if min(labels) < 0:
            mend = "choose another with --data.split"
            raise UserError(f"data.split: {config.split} of {config.name} is unlabelled; {mend}")
        return list(zip(images, labels, strict=True))

    return StreamSource(
        read,
        length=len(records),
        shape=config.stored_shape,
        class_names=names,
        origin=Origin(f"tfds {folder.resolve()} {config.split}", _state(folder)),
    )


def prepare(
    name: str, data_dir: str | None = None, manual_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Downloads a TFDS set and writes it in the form that `open_tfds` reads; returns its folder.

    Original files that lie in `manual_dir` under the names that TFDS registers are taken from
    there, their checksums verified. Needs the `prepare` extra. Raises UserError if that is
    missing, the name is unknown, or the download fails.
    """
    needed = ("tensorflow", "importlib_resources")
    if not all(importlib.util.find_spec(module) for module in needed):
        raise UserError(
            f"preparing {name} needs TensorFlow, this once: pip install 'ddpm_jax[prepare]'"
        )
    import tensorflow_datasets as tfds

    root = _root(data_dir)
    _require_known(name)
    if manual_dir is not None and not Path(manual_dir).expanduser().is_dir():
        raise UserError(f"{manual_dir} is not a folder; --from names one with the original files")
    try:
        builder = tfds.builder(name, data_dir=root)
        download = tfds.download.DownloadConfig(manual_dir=manual_dir)
        builder.download_and_prepare(download_config=download, file_format="array_record")
    # Networks, mirrors and checksums fail in as many ways as TFDS has downloaders.
    except Exception as error:
        mend = "try again, or give the original files with --from DIR"
        raise UserError(f"preparing {name} in {root} failed ({_line(error)}); {mend}") from error
    return Path(builder.data_dir)


def _root(data_dir: str | None) -> Path:
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if "://" in given:
        mend = "copy it to a disk, or mount it there (gcsfuse)"
        raise UserError(f"data.data_dir is {given}, and data is read from files; {mend}")
    return Path(given).expanduser()


def _require_known(name: str) -> None:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    bare = re.split("[/:]", name)[0]
    if bare not in known:
        raise UserError(f"tensorflow-datasets has no data set {name!r}{nearest(bare, known)}")


def _prepared(name: str, root: Path) -> Path:
    """Returns the folder of the newest prepared version, or of the one that the name asks for."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"data.name is {name!r}; it must be NAME or NAME/CONFIG, and :VERSION")
    folder = root / match["name"] / (match["config"] or "")
    versions = _versions(folder)
    if not versions and not match["config"]:
        configs = sorted(path for path in root.glob(f"{match['name']}/*") if _versions(path))
        if len(configs) > 1:
            choices = ", ".join(f"{match['name']}/{path.name}" for path in configs)
            raise UserError(f"data.name: {name} is prepared as {choices}; name one of them")
        versions = [version for path in configs for version in _versions(path)]
    wanted = [path for path in versions if match["version"] in (None, path.name)]
    if not wanted:
        if not versions:
            _require_known(name)
        raise UserError(f"data.name: {name} is not prepared in {root}; run: {_command(name, root)}")
    return wanted[-1]


def _versions(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    versions = [path for path in found if _VERSION.fullmatch(path.name)]
    return sorted(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def _command(name: str, root: Path) -> str:
    return f"ddpm data prepare {name} --data_dir {root}"


def _state(folder: Path) -> str:
    found = ((path.name, path.stat()) for path in sorted(folder.iterdir()))
    return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in found])


def _features(builder: Any) -> dict[str, Any]:
    return dict(builder.info.features)


def _records(builder: Any, config: TfdsData, decoders: dict[str, Any]) -> Any:
    splits = builder.info.splits
    try:
        count = splits[config.split].num_examples
    except Exception as error:
        named = ", ".join(splits)
        mend = f"its splits are {named}, and slices of them like train[:90%]"
        raise UserError(f"data.split: {config.split!r} ({_line(error)}); {mend}") from error
    if count == 0:
        raise UserError(f"data.split: {config.split!r} of {config.name} is empty; widen its slice")
    try:
        return builder.as_data_source(split=config.split, decoders=decoders)
    except NotImplementedError:
        folder = builder.data_dir
        mend = f"delete that folder and run: {_command(config.name, _root(config.data_dir))}"
        what = "is not in array_record, the form that reads without TensorFlow"
        raise UserError(f"data.name: {folder} {what}; {mend}") from None
    except Exception as error:
        raise _damaged(builder.data_dir, config, error) from error


def _damaged(folder: str | os.PathLike[str], config: TfdsData, error: Exception) -> UserError:
    mend = f"delete that folder and run: {_command(config.name, _root(config.data_dir))}"
    return UserError(f"data.name: the files in {folder} are damaged ({_line(error)}); {mend}")


def _line(error: Exception) -> str:
    """The error's first line, as it may bring a page with it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else f"{lines[0][:200]}…"
