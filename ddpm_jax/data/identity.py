"""What a run records about its data, to notice if it later continues with other data."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.data.source import Source

# A description reads this many bytes of pixels, and at least so many examples.
_SAMPLED_BYTES, _SAMPLED = 2**24, 64


def describe_source(source: Source) -> dict[str, Any]:
    """Returns what a run records about a source, as JSON; reads a part of it."""
    return {
        "examples": len(source),
        "classes": list(source.class_names),
        "content": _content(source),
    }


def _content(source: Source) -> str:
    """Returns a digest of examples, evenly spread over the source, and of their classes' names.

    It does not depend on the order of the classes. Small data is read as a whole.
    """
    number = max(_SAMPLED, _SAMPLED_BYTES // math.prod(source.shape))
    indices = np.unique(np.linspace(0, len(source) - 1, min(number, len(source))).astype(np.int64))
    digest = hashlib.sha256()
    for part in np.array_split(indices, math.ceil(len(indices) / _SAMPLED)):
        batch = source.gather(part)
        digest.update(np.ascontiguousarray(batch.examples).data)
        if batch.labels is not None:
            names = [source.class_names[label] for label in np.asarray(batch.labels).tolist()]
            digest.update(repr(names).encode())
    return digest.hexdigest()[:16]


def source_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the differences of two descriptions: the old and the new value by name.

    For classes that is their number or, if it is the same, the first class with another name. The
    content is compared if it alone differs. An old description may lack all but the classes.
    """
    before, after = old["classes"], new["classes"]
    pairs = {"data.examples": (old.get("examples", new["examples"]), new["examples"])}
    pairs["data.classes"] = (len(before), len(after))
    if len(before) == len(after):
        for label, names in enumerate(zip(before, after, strict=True)):
            if names[0] != names[1]:
                pairs[f"data.classes.{label}"] = names
                break
    changes = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if not changes and old.get("content", new["content"]) != new["content"]:
        changes["data.content"] = (old["content"], new["content"])
    return changes
