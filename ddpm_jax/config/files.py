"""Configs as JSON text, and the Python files that describe them."""

import importlib.machinery
import json
import traceback
import types
from pathlib import Path
from typing import Any

import ddpm_jax
from ddpm_jax.config.migrations import FORMAT
from ddpm_jax.config.plain import to_dict
from ddpm_jax.config.reading import from_saved, override
from ddpm_jax.config.run import Config
from ddpm_jax.errors import UserError, nearest, shown
from ddpm_jax.files import local_path

SHIPPED = Path(ddpm_jax.__file__).parent / "shipped_configs"
"""The folder `configs/` of the repository, which every installation carries."""


def dumps(config: Config) -> str:
    """Returns the config as JSON text, with the format that it is written in."""
    plain = {"format": FORMAT, **to_dict(config)}
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


class UnreadableConfig(UserError):
    """A config.json that is not JSON: it was cut short, or lost power left it empty."""


def loads(text: str | bytes, where: str = "config.json") -> Config:
    """Reads the text of `dumps`, of this version or an older one.

    Raises UserError, naming `where`, when it isn't one; UnreadableConfig when it isn't even JSON.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableConfig(f"{where} is not valid JSON: {error}") from None
    try:
        return from_saved(plain)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def find_file(name: str | Path) -> Path:
    """Returns the config file for a path, or for a shipped config's name such as digits.

    A path that exists comes first. Raises UserError, with the names there are, if there is none.
    """
    path = local_path(name)
    if path.is_file():
        return path
    if path.suffix == "" and path.name == str(name):
        shipped = {item.stem: item for item in sorted(SHIPPED.glob("*.py"))}
        if path.name in shipped:
            return shipped[path.name]
        hint = nearest(path.name, list(shipped)) or f"; the shipped ones are {', '.join(shipped)}"
        raise UserError(f"no config file or shipped config {name}{hint}")
    folder = path.parent if path.parent.is_dir() else Path("configs")
    known = sorted(str(item) for item in folder.glob("*.py"))
    if (SHIPPED / path.name).is_file():
        raise UserError(f"no config file {path}; the shipped one goes by its name, {path.stem}")
    hint = nearest(str(path), known) or f"; {folder} has {', '.join(known) or 'none'}"
    raise UserError(f"no config file {path}{hint}")


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a file as Python imports one, but leaves no `__pycache__` in its folder."""

    def set_data(self, *_: Any, **__: Any) -> None:
        pass


def load_file(path: str | Path, *, smoke: bool = False) -> Config:
    """Runs the `get_config()` of a config file, given by its path or a shipped config's name.

    With `smoke`, the settings in the file's `SMOKE`, by dotted name, replace its own: the same run
    as small as it can be, to see that it works. Raises UserError for a file that is no config.
    """
    path = find_file(path)
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
    # The file is the user's, so every error in it is one that the user can fix.
    except (Exception, SystemExit) as error:
        lines = [
            row.lineno
            for row in traceback.extract_tb(error.__traceback__)
            if row.filename == str(path)
        ]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        what = " ".join(str(error).split())
        raise UserError(f"{where}: {type(error).__name__}: {what}; fix the file") from error
    if not isinstance(config, Config):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}, not a Config")
    if not smoke:
        return config
    if not hasattr(module, "SMOKE"):
        raise UserError(f"{path} has no SMOKE, a dict of settings for a run of seconds")
    smallest = module.SMOKE
    if not isinstance(smallest, dict) or not all(isinstance(name, str) for name in smallest):
        raise UserError(f"{path}: SMOKE is {shown(smallest)}; it must be a dict of settings")
    return override(config, smallest)
