"""Our own parameters in one `.safetensors` file: dotted names; config and classes in its header."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.manifest import by_name
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.weights.contract import Foreign
from ddpm_jax.weights.places import SAME, Place, to_tensors
from ddpm_jax.weights.tensors import read_metadata, read_tensors, write_safetensors

FILE = "model.safetensors"


def read(source: Path) -> Foreign:
    """Reads the file, or the folder that has it."""
    path = source / FILE if source.is_dir() else source
    if not path.is_file():
        raise UserError(f"{source} is no file of weights, and no folder with a {FILE}")
    header = read_metadata(path)
    text = header.get("config")
    if text is None:
        raise UserError(f"{path} has no config in its header: ddpm export did not write it")
    config = configs.loads(text, f"the header of {path}")
    shape = config.data.example_shape
    if len(shape) != 3:
        raise UserError(f"{path} is a network for examples of shape {shape}, not for images")
    data = {"image_size": shape[:2], "channels": shape[2]}
    diffusion, sample = _settings(config.diffusion), _settings(config.sample)
    names = _class_names(path, header, config)
    return Foreign(data, config.model, diffusion, sample, read_tensors(path), _places, names)


def write(config: Config, class_names: Sequence[str], params: Any, folder: Path) -> Sequence[str]:
    """Writes the file into the folder."""
    tensors = to_tensors(_places(config, params), params)
    metadata = {"format": "ddpm_jax", "config": configs.dumps(config)}
    if class_names:
        metadata["class_names"] = json.dumps(class_names)
    write_safetensors(folder / FILE, tensors, metadata)
    return ()


def _places(config: Config, shapes: Any) -> list[Place]:
    del config
    return [Place(name, (name,), SAME) for name in by_name(shapes)]


def _class_names(path: Path, header: Mapping[str, str], config: Config) -> tuple[str, ...]:
    text, count = header.get("class_names"), config.model.num_classes
    if text is None:
        return ()
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or not len(set(names)) == len(names) == count
    ):
        raise UserError(
            f"the header of {path} has class_names that are not {count} names; repair it"
        )
    return tuple(names)


def _settings(section: Any) -> dict[str, Any]:
    return {item.name: getattr(section, item.name) for item in dataclasses.fields(section)}
