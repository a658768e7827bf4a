"""Settings as plain values: nested, or flat under their dotted names."""

import dataclasses
from typing import Any

from ddpm_jax.tables import Choice, Choices


def to_dict(config: Any) -> dict[str, Any]:
    """Returns nested plain values of a config or of one section.

    A section with several kinds names its own under `kind`; a choice of a row is a table with its
    `name` and its options.
    """
    plain = {"kind": config.kind} if hasattr(config, "kind") else {}
    for item in dataclasses.fields(config):
        plain[item.name] = _plain(getattr(config, item.name))
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Choice):
        return {"name": value.name} | {name: _plain(v) for name, v in value.options.items()}
    if isinstance(value, Choices):
        return {name: _plain(choice) for name, choice in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def flatten(config: Any) -> dict[str, Any]:
    """Returns every setting under its dotted name: `train.steps`, `sample.sampler.eta`.

    A choice's own name, `sample.sampler`, has the name of its row.
    """
    return _flatten(config, "")


def _flatten(config: Any, prefix: str) -> dict[str, Any]:
    flat = {f"{prefix}kind": config.kind} if hasattr(config, "kind") else {}
    for item in dataclasses.fields(config):
        flat |= _flat(f"{prefix}{item.name}", getattr(config, item.name))
    return flat


def _flat(dotted: str, value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return _flatten(value, f"{dotted}.")
    flat = {}
    if isinstance(value, Choices):
        for name, choice in value.items():
            flat |= _flat(f"{dotted}.{name}", choice)
    elif isinstance(value, Choice):
        flat[dotted] = value.name
        flat |= {f"{dotted}.{name}": _plain(v) for name, v in value.options.items()}
    else:
        flat[dotted] = _plain(value)
    return flat
