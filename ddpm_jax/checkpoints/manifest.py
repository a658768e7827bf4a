"""The names, shapes and types of a checkpoint's arrays, and their comparison with a network's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Manifest = dict[str, tuple[tuple[int, ...], str]]
"""Shape and type of every array, by its dotted name: `params.conv_in.kernel`."""


def by_name(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of named trees under their dotted names."""
    # Field by field: as one tree, a dict would be sorted, with ema before params.
    return {
        f"{field}.{keystr(path)}".rstrip("."): leaf
        for field, tree in fields.items()
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def keystr(path: Any) -> str:
    """Returns the dotted name of a leaf within its tree."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def manifest_of(arrays: Mapping[str, Any]) -> Manifest:
    """Returns the manifest of arrays, or of their shapes, by name."""
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in arrays.items()}


def shapes_of(manifest: Manifest) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the arrays of a manifest as shapes, by name."""
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
        for name, (shape, dtype) in manifest.items()
    }


def to_text(manifest: Manifest) -> str:
    """Returns a manifest as JSON, one array per line."""
    rows = (f"{json.dumps(name)}: {json.dumps(what)}" for name, what in manifest.items())
    return "{\n  " + ",\n  ".join(rows) + "\n}\n"


def from_text(text: str) -> Manifest:
    """Returns the manifest that `to_text` was given."""
    return {name: (tuple(shape), dtype) for name, (shape, dtype) in json.loads(text).items()}


def of_fields(manifest: Manifest, fields: Sequence[str]) -> Manifest:
    """Returns the arrays of some fields, field by field: `ema.slow` has `ema.slow.bias`."""
    return {
        name: what
        for field in fields
        for name, what in manifest.items()
        if name == field or name.startswith(f"{field}.")
    }


def tree_of(manifest: Manifest, field: str) -> Any:
    """Returns the arrays of a field as shapes, in the nested dicts that Linen uses."""
    shapes = shapes_of(of_fields(manifest, [field]))
    return nested({name.removeprefix(f"{field}."): shape for name, shape in shapes.items()})


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dicts of dicts whose leaves have these dotted names."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = array
    return tree


def difference(saved: Manifest, wanted: Manifest) -> str | None:
    """Returns how the first array that differs is different, or None if all are equal.

    Orbax itself would cast or drop the array, or fail with a message that does not name it.
    """
    for name in dict.fromkeys([*wanted, *saved]):
        if name not in saved:
            return f"no {name}, which the network has"
        if name not in wanted:
            return f"an array {name}, which the network lacks"
        if saved[name] != wanted[name]:
            (old, old_type), (new, new_type) = saved[name], wanted[name]
            return f"{name} as {old_type}{list(old)}, and the network {new_type}{list(new)}"
    return None
