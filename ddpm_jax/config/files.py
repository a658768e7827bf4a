"""Configs as JSON and as files, and what may change between two of them."""

import dataclasses
import importlib.machinery
import json
import traceback
import types
import typing
from pathlib import Path
from typing import Any, Literal

from ddpm_jax.config.checks import require_row
from ddpm_jax.config.plain import flatten, to_dict
from ddpm_jax.config.run import Config
from ddpm_jax.errors import UserError, nearest


def from_dict(plain: dict[str, Any]) -> Config:
    """Rebuilds a Config from `to_dict`'s values; settings left out take their defaults.

    Raises UserError for an unknown setting or kind, or a value of another type.
    """
    return _section(Config, plain, "")


def _section(hint: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise UserError(f"{where or 'config'} is {plain!r}; it must be a table of settings")
    kinds = {cls.kind: cls for cls in _members(hint) if hasattr(cls, "kind")}
    if kinds:
        kind = plain.get("kind", next(iter(kinds)))
        require_row(f"{where}.kind", kind, kinds)
        cls = kinds[kind]
    else:
        cls = hint
    hints = typing.get_type_hints(cls)
    names = [item.name for item in dataclasses.fields(cls)]
    values = {}
    for name, value in plain.items():
        dotted = f"{where}.{name}".lstrip(".")
        if name == "kind" and kinds:
            continue
        if name not in names:
            raise UserError(f"unknown setting {dotted}{nearest(name, names)}")
        hint = hints[name]
        if any(dataclasses.is_dataclass(member) for member in _members(hint)):
            values[name] = _section(hint, value, dotted)
        else:
            values[name] = _value(hint, value, dotted)
    return cls(**values)


def _members(hint: Any) -> tuple[Any, ...]:
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)


def _value(hint: Any, value: Any, dotted: str) -> Any:
    for member in _members(hint):
        origin, args = typing.get_origin(member), typing.get_args(member)
        if origin is Literal and value in args:
            return value
        if origin is tuple and isinstance(value, list | tuple):
            inner = args[:1] * len(value) if args[-1] is Ellipsis else args
            if len(inner) == len(value):
                return tuple(
                    _value(each, item, dotted) for each, item in zip(inner, value, strict=True)
                )
        if member is type(None) and value is None:
            return None
        if member is float and type(value) in (int, float):
            return float(value)  # type: ignore[arg-type]
        if isinstance(member, type) and type(value) is member:
            return value
    named = str(getattr(hint, "__name__", hint)).replace("typing.", "")
    raise UserError(f"{dotted} is {value!r}; it must be {named}")


def override(config: Config, settings: dict[str, Any]) -> Config:
    """Returns the config with settings replaced by dotted name: {"train.steps": 4}.

    Raises UserError for an unknown name or an impossible value.
    """
    plain = to_dict(config)
    known = [name for name in flatten(config) if not name.endswith(".kind")]
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"unknown setting {name}{nearest(name, known)}")
        *sections, last = name.split(".")
        place = plain
        for section in sections:
            place = place[section]
        place[last] = value
    return from_dict(plain)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that differ, as dotted name -> (old value, new value)."""
    before, after = flatten(old), flatten(new)
    names = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


# Changing one of these would give the saved parameters another shape or another meaning.
_IDENTITY = ("model", "diffusion", "data.kind", "data.image_size", "data.channels")
_HARMLESS = ("model.dropout", "model.dtype", "model.remat")


def breaking(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns those differences with which a run of `old` can't go on as `new`."""

    def breaks(name: str) -> bool:
        inside = any(name == each or name.startswith(f"{each}.") for each in _IDENTITY)
        return inside and name not in _HARMLESS

    return {name: pair for name, pair in differences(old, new).items() if breaks(name)}


def dumps(config: Config) -> str:
    """Returns the config as JSON text."""
    return json.dumps(to_dict(config), indent=2, allow_nan=False) + "\n"


def loads(text: str, where: str = "config.json") -> Config:
    """Reads `dumps`'s text; raises UserError, naming `where`, when it isn't one."""
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None
    try:
        return from_dict(plain)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a file as Python imports one, but leaves no `__pycache__` beside it."""

    def set_data(self, *_: Any, **__: Any) -> None:
        pass


def load_file(path: str | Path, *, smoke: bool = False) -> Config:
    """Runs a config file's `get_config()`; raises UserError if there is none.

    With `smoke`, the file's `SMOKE` (settings by dotted name) is put over it: the same run in
    seconds, to see that it works.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        known = sorted(str(item) for item in folder.glob("*.py"))
        hint = nearest(str(path), known) or f"; {folder} has {', '.join(known) or 'none'}"
        raise UserError(f"no config file {path}{hint}")
    if path.suffix != ".py":
        raise UserError(f"{path} is not a Python file; a config file ends in .py")
    loader = _Loader(f"ddpm_config_{path.stem}", str(path))
    module = types.ModuleType(loader.name)
    module.__file__ = str(path)
    try:
        loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path} has no get_config(); it must return a ddpm_jax.Config")
        config = module.get_config()
    except UserError:
        raise
    # The file is the user's, and so is whatever is wrong in it.
    except Exception as error:
        lines = [
            row.lineno
            for row in traceback.extract_tb(error.__traceback__)
            if row.filename == str(path)
        ]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        what = " ".join(str(error).split())
        raise UserError(f"{where}: {type(error).__name__}: {what}; mend the file") from error
    if not isinstance(config, Config):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}, not a Config")
    if not smoke:
        return config
    if not hasattr(module, "SMOKE"):
        raise UserError(f"{path} has no SMOKE, a dict of settings for a run of seconds")
    return override(config, module.SMOKE)
