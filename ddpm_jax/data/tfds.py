"""Image sets of tensorflow-datasets, read without TensorFlow and without network access.

Only `prepare` needs TensorFlow: once per data set, it writes the files that are read here.
"""

import importlib.util
import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.data.cache import origin_of
from ddpm_jax.data.findings import Findings, range_error
from ddpm_jax.data.pictures import RangeError, decode
from ddpm_jax.data.settings import TfdsData
from ddpm_jax.data.source import StreamSource
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.files import local_path

# NAME or NAME/CONFIG, optionally followed by :VERSION.
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class Records(NamedTuple):
    """A prepared set with encoded pictures: each record has an `image`, in bytes.

    `class_names` are the classes of its `label`; empty if it has none.
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
    # Damaged files can make TFDS raise errors of many libraries.
    except Exception as error:
        raise _damaged(folder, config, error) from error
    image, label = features.get("image"), features.get("label")
    if not (isinstance(image, tfds.features.Image) and image.np_dtype in (np.uint8, np.uint16)):
        named = ", ".join(features)
        raise UserError(f"data.name: {config.name} has no `image` of pixels; its features: {named}")
    names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    # All pictures stay encoded, so that unused ones are not decoded.
    pictures = [name for name, kind in features.items() if isinstance(kind, tfds.features.Image)]
    records = _records(builder, config, dict.fromkeys(pictures, tfds.decode.SkipDecoding()))
    return Records(folder, records, names)


def open_tfds(config: TfdsData) -> StreamSource:
    """Returns the images of a prepared TFDS set, uint8 `[H, W, C]`, in the order of its files.

    Labels are its `label` feature, if that is a class. Raises UserError if the set is unknown, not
    prepared or damaged, or has no images or no such split.
    """
    folder, records, names = open_records(config)
    what = f"{config.split} of {folder}"
    findings = Findings(what, config.stored_shape, len(records), span=config.range)

    def read(indices: np.ndarray) -> list[tuple[np.ndarray, int]]:
        try:
            found = records.__getitems__(indices.tolist())
            decoded = [
                decode(record["image"], config.stored_shape, span=config.range) for record in found
            ]
        except RangeError as error:
            raise range_error(f"{config.name}", config.range, error) from None
        except Exception as error:
            raise _damaged(folder, config, error) from error
        for index, each in zip(indices, decoded, strict=True):
            findings.add(index, each)
        images = [each.pixels for each in decoded]
        if not names:
            return [(image, 0) for image in images]
        labels = [int(record["label"]) for record in found]
        if min(labels) < 0:
            advice = "choose another split"
            raise UserError(f"data.split: {config.split} of {config.name} has no labels; {advice}")
        return list(zip(images, labels, strict=True))

    return StreamSource(
        read,
        length=len(records),
        shape=config.stored_shape,
        class_names=names,
        origin=origin_of(config, folder, sorted(folder.iterdir())),
        findings=findings,
    )


def prepare(
    name: str, data_dir: str | None = None, manual_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Downloads a TFDS set, writes it in the form that `open_tfds` reads, and returns its folder.

    Original files in `manual_dir`, under the names that TFDS registers, are used instead of
    downloads; their checksums are verified. Needs the `prepare` extra. Raises UserError if that is
    missing, the name is unknown, or the download fails.
    """
    needed = ("tensorflow", "importlib_resources")
    if not all(importlib.util.find_spec(module) for module in needed):
        raise UserError(
            f"preparing {name} needs TensorFlow, only once: pip install 'ddpm_jax[prepare]'"
        )
    import tensorflow_datasets as tfds

    root = _root(data_dir)
    _require_known(name)
    given = None if manual_dir is None else local_path(manual_dir)
    if given is not None and not given.is_dir():
        raise UserError(f"{manual_dir} is not a folder; give the folder of the original files")
    try:
        builder = tfds.builder(name, data_dir=root)
        download = tfds.download.DownloadConfig(manual_dir=given)
        builder.download_and_prepare(download_config=download, file_format="array_record")
    # Networks, mirrors and checksums can fail in many ways.
    except Exception as error:
        advice = "try again, or give the folder of the original files"
        raise UserError(f"preparing {name} in {root} failed ({_line(error)}); {advice}") from error
    return Path(builder.data_dir)


def _root(data_dir: str | None) -> Path:
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if "://" in given:
        advice = "copy it to a disk, or mount it (gcsfuse)"
        raise UserError(f"data.data_dir is {given}, but data is read from local files; {advice}")
    return local_path(given)


def known_sets() -> list[str]:
    """Returns the names of all sets of this version of tensorflow-datasets."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def _require_known(name: str) -> None:
    known, bare = known_sets(), re.split("[/:]", name)[0]
    if bare not in known:
        raise UserError(f"tensorflow-datasets has no data set {name!r}{nearest(bare, known)}")


def _prepared(name: str, root: Path) -> Path:
    """Returns the folder of the version in the name, or of the newest prepared one."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"data.name is {name!r}; it must be NAME[/CONFIG][:VERSION]")
    folder = root / match["name"] / (match["config"] or "")
    versions = _versions(folder)
    if not versions and not match["config"]:
        configs = sorted(path for path in root.glob(f"{match['name']}/*") if _versions(path))
        if len(configs) > 1:
            choices = ", ".join(f"{match['name']}/{path.name}" for path in configs)
            raise UserError(f"data.name: {name} is prepared as {choices}; choose one of them")
        versions = [version for path in configs for version in _versions(path)]
    matching = [path for path in versions if match["version"] in (None, path.name)]
    if not matching:
        if not versions:
            _require_known(name)
        raise UserError(f"data.name: {name} is not prepared in {root}; run: {_command(name, root)}")
    return matching[-1]


def _versions(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    versions = [path for path in found if _VERSION.fullmatch(path.name)]
    return sorted(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def _command(name: str, root: Path) -> str:
    return f"TFDS_DATA_DIR={shlex.quote(str(root))} ddpm data prepare {name}"


def _features(builder: Any) -> dict[str, Any]:
    return dict(builder.info.features)


def _records(builder: Any, config: TfdsData, decoders: dict[str, Any]) -> Any:
    splits = builder.info.splits
    try:
        count = splits[config.split].num_examples
        # Of a slice that ends before it begins, TFDS counts fewer than none.
        least = min(splits[part].num_examples for part in config.split.split("+"))
    except Exception as error:
        named = ", ".join(splits)
        advice = f"its splits are {named}, and slices of them like train[:90%]"
        raise UserError(f"data.split: {config.split!r} ({_line(error)}); {advice}") from error
    if count == 0 or least < 0:
        raise UserError(f"data.split: {config.split!r} of {config.name} is empty; widen its slice")
    try:
        return builder.as_data_source(split=config.split, decoders=decoders)
    except NotImplementedError:
        folder = builder.data_dir
        advice = f"delete that folder and run: {_command(config.name, _root(config.data_dir))}"
        what = "is not in array_record, the only format that needs no TensorFlow"
        raise UserError(f"data.name: {folder} {what}; {advice}") from None
    except Exception as error:
        raise _damaged(builder.data_dir, config, error) from error


def _damaged(folder: str | os.PathLike[str], config: TfdsData, error: Exception) -> UserError:
    advice = f"delete that folder and run: {_command(config.name, _root(config.data_dir))}"
    return UserError(f"data.name: the files in {folder} are damaged ({_line(error)}); {advice}")


def _line(error: Exception) -> str:
    """Returns the first line of an error, which may have a page of text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else f"{lines[0][:200]}…"
