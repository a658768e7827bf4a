"""What a run remembers of its data, to notice when it goes on with others."""

from collections.abc import Mapping
from typing import Any

from ddpm_jax.data.source import Source


def described(source: Source) -> dict[str, Any]:
    """Returns what is remembered of a source, as JSON takes it."""
    return {"examples": len(source), "classes": list(source.class_names)}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns what differs between two descriptions, by name: the old value and the new one.

    Of the classes that is their number or, where it is the same, the first that has another name.
    """
    pairs = {"data.examples": (old["examples"], new["examples"])}
    before, after = old["classes"], new["classes"]
    pairs["data.classes"] = (len(before), len(after))
    if len(before) == len(after):
        for label, names in enumerate(zip(before, after, strict=True)):
            if names[0] != names[1]:
                pairs[f"data.classes.{label}"] = names
                break
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
