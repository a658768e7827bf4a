"""Data: sources by the kind of their config, and the batch as a function of the step."""

from collections.abc import Callable
from typing import Any

from ddpm_jax.config import DataConfig
from ddpm_jax.data.arrays import open_arrays
from ddpm_jax.data.batches import Batches, batch_indices, epoch_order, local_batch
from ddpm_jax.data.crops import CroppedSource
from ddpm_jax.data.digits import open_digits
from ddpm_jax.data.folder import open_folder
from ddpm_jax.data.loading import load
from ddpm_jax.data.picture import open_picture, resolve
from ddpm_jax.data.pixels import random_flip, to_pixels, to_unit
from ddpm_jax.data.points import open_points
from ddpm_jax.data.source import Source, StreamSource
from ddpm_jax.data.tfds import open_tfds
from ddpm_jax.errors import UserError

__all__ = [
    "SOURCES",
    "Batches",
    "Source",
    "batch_indices",
    "count_examples",
    "epoch_order",
    "local_batch",
    "open_source",
    "random_flip",
    "resolve",
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


def open_source(config: DataConfig) -> Source:
    """Returns the source that a data config describes, decoded if it fits in memory.

    Its examples have `config.example_shape`. Raises UserError when the data isn't there, is damaged
    or empty, with how to mend it.
    """
    cropped = getattr(config, "crop_from", None) is not None
    source = SOURCES[config.kind](config)
    if len(source) == 0:
        raise UserError(f"data: {config} has no examples")
    if isinstance(source, StreamSource):
        source = load(source)
    if cropped:
        height, width, _ = config.example_shape
        source = CroppedSource(source, (height, width))
    if source.shape != config.example_shape:
        kind = config.kind
        raise ValueError(
            f"{kind} gives examples {source.shape}, its config says {config.example_shape}"
        )
    return source


def count_examples(config: DataConfig) -> int:
    """Returns how many examples the data has, decoding them only where some may be unreadable.

    Raises UserError as `open_source` does.
    """
    source = SOURCES[config.kind](config)
    if isinstance(source, StreamSource) and source.tolerance is not None:
        return len(load(source))
    return len(source)
