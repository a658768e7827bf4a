"""A config from plain values, and with some of its settings replaced or compared."""

import dataclasses
import typing
from collections.abc import Mapping
from fnmatch import fnmatchcase as fnmatch
from typing import Any, TypeVar

from ddpm_jax.config.checks import require_row
from ddpm_jax.config.choices import choice_fields, chosen
from ddpm_jax.config.format_0 import RENAMED
from ddpm_jax.config.migrations import lift
from ddpm_jax.config.plain import flatten, to_dict
from ddpm_jax.config.run import Config
from ddpm_jax.config.settings import canonical
from ddpm_jax.config.settings import settings as settings_of
from ddpm_jax.config.values import members, typed
from ddpm_jax.data import SOURCES, DataConfig
from ddpm_jax.data import settings_of as source_settings
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.models import MODELS, ModelConfig
from ddpm_jax.models import settings_of as network_settings

Section = TypeVar("Section")


def from_dict(plain: dict[str, Any]) -> Config:
    """Rebuilds a Config from `to_dict`'s values; settings left out take their defaults.

    Raises UserError for an unknown setting or kind, or a value of another type.
    """
    return _section(Config, plain, "")


def from_saved(plain: dict[str, Any]) -> Config:
    """Rebuilds a Config from what any version saved, with its `format`; without it, format 0.

    Raises UserError as `from_dict` does, and for a format of a newer version.
    """
    if not isinstance(plain, dict):
        return from_dict(plain)
    settings = {name: value for name, value in plain.items() if name != "format"}
    return from_dict(_unclipped(lift(settings, plain.get("format", 0))))


def _unclipped(settings: dict[str, Any]) -> dict[str, Any]:
    """Takes clipping off points of an array file, which it spoils: it was not refused at first."""
    data, sample = settings.get("data"), settings.get("sample")
    if not isinstance(data, dict) or not isinstance(sample, dict):
        return settings
    if data.get("kind") != "arrays" or data.get("holds") != "points":
        return settings
    return {**settings, "sample": {**sample, "clipping": "none"}}


def _section(hint: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise UserError(f"{where or 'config'} is {plain!r}; it must be a table of settings")
    classes = members(hint)
    # The tables as they are now: they may have got rows since the import.
    if hint == ModelConfig:
        classes = (*classes, *map(network_settings, MODELS.values()))
    if hint == DataConfig:
        classes = (*classes, *map(source_settings, SOURCES.values()))
    kinds = {cls.kind: cls for cls in classes if hasattr(cls, "kind")}
    if kinds:
        kind = plain.get("kind", next(iter(kinds)))
        require_row(f"{where}.kind", kind, kinds)
        cls = kinds[kind]
    else:
        cls = hint
    hints, choices = typing.get_type_hints(cls), choice_fields(cls)
    names = [item.name for item in dataclasses.fields(cls)]
    values = {}
    for name, value in plain.items():
        dotted = f"{where}.{name}".lstrip(".")
        if name == "kind" and kinds:
            continue
        if name not in names:
            raise UserError(_unknown(dotted, names))
        if name in choices:
            values[name] = choices[name].read(value)
        elif any(dataclasses.is_dataclass(member) for member in members(hints[name])):
            values[name] = _section(hints[name], value, dotted)
        else:
            values[name] = typed(hints[name], value, dotted)
    return cls(**values)


def _unknown(dotted: str, known: list[str]) -> str:
    if dotted in RENAMED:
        return f"unknown setting {dotted}: it is now {RENAMED[dotted]}"
    return f"unknown setting {dotted}{nearest(dotted.rpartition('.')[2], known)}"


def override(config: Section, settings: Mapping[str, Any]) -> Section:
    """Returns a config, or one section, with settings replaced by name: {"train.steps": 4}.

    If a row is given by its name, the old options that it also takes are kept. Raises UserError
    for an unknown name or an impossible value.
    """
    known = [each.name for each in settings_of(config)]
    given = {canonical(name, known): value for name, value in settings.items()}
    plain, fields = to_dict(config), chosen(config)
    # A row comes before its options: their names have one part more.
    for name in sorted(given, key=lambda name: name.count(".")):
        *path, last = name.split(".")
        place = plain
        for part in path:
            if part not in place:
                raise UserError(f"{name} is set, and {part} is not kept: leave out {name}")
            place = place[part]
        place[last] = given[name]
        if name in fields:
            field, old = fields[name]
            place[last] = field.changed(old, given[name])
    return _section(type(config), plain, "")


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that differ, as dotted name -> (old value, new value).

    None stands for an option that the old or the new row does not take. Averages of another order
    differ if the first one does, which is used where none is named.
    """
    before, after = flatten(old), flatten(new)
    names = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    if old.train.first_average != new.train.first_average:
        pairs["train.averages"] = (list(old.train.averages), list(new.train.averages))
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


# Another value of one of these gives the saved parameters another shape or another meaning, or the
# steps to come other random numbers, or other examples to train on, than those that were made.
_IDENTITY = (
    *("seed", "init", "model", "diffusion", "data.kind", "data.image_size"),
    *("data.channels", "data.dimensions"),
    # The power function of an average, which holds for all steps made and for its snapshots.
    *("validation.share", "train.averages.*.sigma_rel"),
)
_HARMLESS = ("model.dropout", "model.dtype", "model.remat")


def breaking(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns those differences with which a run of `old` can't go on as `new`."""

    def breaks(name: str) -> bool:
        inside = any(fnmatch(name, each) or fnmatch(name, f"{each}.*") for each in _IDENTITY)
        return inside and name not in _HARMLESS

    return {name: pair for name, pair in differences(old, new).items() if breaks(name)}
