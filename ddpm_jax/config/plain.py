"""Settings as plain values: nested, or flat under their dotted names."""

import dataclasses
from typing import Any


def to_dict(config: Any) -> dict[str, Any]:
    """Returns nested plain values; a section with several kinds says its own under `kind`."""
    plain = {"kind": config.kind} if hasattr(config, "kind") else {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[item.name] = list(value) if isinstance(value, tuple) else value
    return plain


def flatten(config: Any) -> dict[str, Any]:
    """Returns every setting under its dotted name, `train.steps` and so on."""

    def walk(plain: dict[str, Any], prefix: str) -> dict[str, Any]:
        flat = {}
        for name, value in plain.items():
            dotted = f"{prefix}{name}"
            flat |= walk(value, f"{dotted}.") if isinstance(value, dict) else {dotted: value}
        return flat

    return walk(to_dict(config), "")
