"""What a run records about its data, to notice if it later continues with other data."""

from collections.abc import Mapping
from typing import Any

from ddpm_jax.data.source import Source


def describe_source(source: Source) -> dict[str, Any]:
    """Returns what a run records about a source, as JSON."""
    return {"examples": len(source), "classes": list(source.class_names)}


def source_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the differences of two descriptions: the old and the new value by name.

    For classes that is their number or, if it is the same, the first class with another name.
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
