"""The formats by name, and what an import makes of a source: a config, and its parameters."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax import config as configs
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.files import local_path
from ddpm_jax.tables import defaults_of, row_with, signature_of
from ddpm_jax.weights import annotated, diffusers, lucidrains, openai, safetensors, stablehlo
from ddpm_jax.weights.contract import Reader, Writer
from ddpm_jax.weights.places import to_params

READERS: dict[str, Reader] = {
    "annotated": annotated.read,
    "diffusers": diffusers.read,
    "lucidrains": lucidrains.read,
    "openai": openai.read,
    "safetensors": safetensors.read,
}
"""What `ddpm import --from` reads: `(source, *, options) -> Foreign`."""
WRITERS: dict[str, Writer] = {
    "diffusers": diffusers.write,
    "safetensors": safetensors.write,
    "stablehlo": stablehlo.write,
}
"""What `ddpm export --to` writes: `(config, class_names, params, folder) -> lines to tell`."""


class Imported(NamedTuple):
    """Another project's network as ours."""

    config: Config
    params: Any
    class_names: Sequence[str] = ()


def import_weights(
    name: str,
    source: str | Path,
    base: Config,
    settings: Callable[[Config], Mapping[str, Any]] = lambda config: {},
    **options: Any,
) -> Imported:
    """Reads a source of a format, a row of `READERS` with its options.

    The config is `base` with what the source says; `settings` is given it and returns those to
    replace, by dotted name. Raises UserError for a source that can't be read, or that is no network
    of ours.
    """
    path = local_path(source)
    if path.suffix == ".pkl":
        raise UserError(
            f"{path} is a pickle, as EDM publishes: it holds source code, which opening it would "
            "run; take the same network's weights in another format"
        )
    try:
        row = row_with("format", READERS, name, options)
        for option in signature_of(row):
            if option not in {*options, *defaults_of(row)}:
                raise UserError(f"the format {name} needs the option --{option}")
        found = row(path, **options)
    except ValueError as error:
        raise UserError(str(error)) from None
    config = dataclasses.replace(
        base,
        data=configs.override(base.data, found.data),
        model=found.model,
        diffusion=configs.override(base.diffusion, found.diffusion),
        sample=configs.override(base.sample, found.sample),
        init=f"{name}:{source}",
    )
    config = configs.override(config, settings(config))
    shapes = build(config).param_shapes
    params = to_params(found.places(config, shapes), found.tensors, shapes, str(path))
    return Imported(config, params, found.class_names)


def export_weights(
    name: str,
    config: Config,
    params: Any,
    folder: str | Path,
    *,
    class_names: Sequence[str] = (),
) -> tuple[str, ...]:
    """Writes a run's parameters as a row of `WRITERS`, into a new folder; returns lines to tell.

    `class_names` are those of the labels, and empty where the run has none.
    Raises UserError for a folder that is not empty, and for a run that the format can't hold; then
    nothing is written.
    """
    path = local_path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already; name a new folder")
    return tuple(row_with("format", WRITERS, name, ())(config, class_names, params, path))
