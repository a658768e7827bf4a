"""Data: a source for each kind of settings, and batches as a function of the step.

A row of SOURCES is a function of its settings, whose class its annotation names; a file may hold
both. To add one, write its file and add its row.
"""

import dataclasses
import functools
import operator
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ddpm_jax.data.arrays import open_arrays
from ddpm_jax.data.batches import Batches, batch_indices, epoch_order, local_batch
from ddpm_jax.data.crops import CroppedSource
from ddpm_jax.data.digits import open_digits
from ddpm_jax.data.folder import open_folder
from ddpm_jax.data.held_out import hold_out
from ddpm_jax.data.identity import describe_source
from ddpm_jax.data.loading import materialize
from ddpm_jax.data.picture import open_picture, own_size
from ddpm_jax.data.pixels import random_flip, to_pixels, to_unit
from ddpm_jax.data.points import open_points
from ddpm_jax.data.settings import PictureData, SourceConfig
from ddpm_jax.data.source import Source, StreamSource
from ddpm_jax.data.tfds import open_tfds
from ddpm_jax.errors import UserError

__all__ = [
    "SOURCES",
    "Batches",
    "DataConfig",
    "Source",
    "SourceConfig",
    "batch_indices",
    "count_examples",
    "describe_place",
    "describe_source",
    "epoch_order",
    "hold_out",
    "local_batch",
    "open_source",
    "random_flip",
    "resolve",
    "settings_of",
    "to_pixels",
    "to_unit",
]

SOURCES: dict[str, Callable[[Any], Source]] = {
    "digits": open_digits,
    "points": open_points,
    "tfds": open_tfds,
    "folder": open_folder,
    "arrays": open_arrays,
    "picture": open_picture,
}


def settings_of(row: Callable[[Any], Source]) -> type[SourceConfig]:
    """Returns the class of a row's settings: the annotation of its argument."""
    return next(iter(typing.get_type_hints(row).values()))


if TYPE_CHECKING:
    DataConfig = SourceConfig
else:
    DataConfig = functools.reduce(operator.or_, map(settings_of, SOURCES.values()))


def open_source(config: DataConfig) -> Source:
    """Returns the source of a data config, decoded if it fits in memory.

    Its examples have `config.example_shape`. Raises UserError if the data is missing, damaged or
    empty, and says what to do.
    """
    cropped = getattr(config, "crop_from", None) is not None
    source = SOURCES[config.kind](config)
    if len(source) == 0:
        raise UserError(f"data: {config} has no examples; choose other data")
    if isinstance(source, StreamSource):
        source = materialize(source)
    if cropped:
        height, width, _ = config.example_shape
        source = CroppedSource(source, (height, width))
    if source.shape != config.example_shape:
        kind = config.kind
        raise ValueError(
            f"{kind} gives examples {source.shape}, but its config says {config.example_shape}"
        )
    return source


Config = TypeVar("Config", bound=Any)


def resolve(config: Config) -> Config:
    """Returns the config with everything that describes its data without where and when it was.

    Relative paths become absolute, and a picture's size its own instead of None. Raises UserError
    if the picture can't be read, or if the network can't take its size.
    """
    data = config.data
    changes: dict[str, Any] = {}
    for name in data.paths():
        if path := getattr(data, name):
            changes[name] = _absolute(path)
    if isinstance(data, PictureData) and data.image_size is None:
        changes["image_size"] = own_size(data)
    words = [word.partition("=") for word in config.validation.data]
    held_out = tuple(
        f"{name}={_absolute(text) if name in data.paths() else text}" for name, _, text in words
    )
    validation = dataclasses.replace(config.validation, data=held_out)
    resolved = {"data": dataclasses.replace(data, **changes), "validation": validation}
    if resolved == {"data": data, "validation": config.validation}:
        return config
    return dataclasses.replace(config, **resolved)


def _absolute(path: str) -> str:
    return path if Path(path).expanduser().is_absolute() else str(Path(path).absolute())


def describe_place(config: DataConfig) -> str:
    """Returns where the data is, or what it is, in a few words."""
    return str(getattr(config, "path", None) or getattr(config, "name", None) or config.kind)


def count_examples(config: DataConfig) -> int:
    """Returns the number of examples; decodes them only if some may be unreadable.

    Raises UserError as `open_source` does.
    """
    source = SOURCES[config.kind](config)
    if isinstance(source, StreamSource) and source.tolerance is not None:
        return len(materialize(source))
    return len(source)
