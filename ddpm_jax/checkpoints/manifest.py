"""Which arrays a checkpoint holds, against those that a network has."""

import json
from typing import Any

import jax
import jax.numpy as jnp

Arrays = dict[str, tuple[tuple[int, ...], str]]


def named(fields: dict[str, Any]) -> Arrays:
    """Returns the shape and type of every array of named trees, under its dotted name."""
    return {
        f"{name}.{jax.tree_util.keystr(path, simple=True, separator='.')}".rstrip("."): (
            tuple(leaf.shape),
            str(leaf.dtype),
        )
        for name, tree in fields.items()  # a dict as one tree would be sorted: ema before params
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def to_text(arrays: Arrays) -> str:
    """Returns them as JSON, an array a line."""
    rows = (f"{json.dumps(name)}: {json.dumps(what)}" for name, what in arrays.items())
    return "{\n  " + ",\n  ".join(rows) + "\n}\n"


def from_text(text: str) -> Arrays:
    """Returns what `to_text` was given."""
    return {name: (tuple(shape), dtype) for name, (shape, dtype) in json.loads(text).items()}


def of_fields(arrays: Arrays, fields: list[str]) -> Arrays:
    """Returns those of some top-level names."""
    return {name: what for name, what in arrays.items() if name.split(".")[0] in fields}


def tree_of(arrays: Arrays, field: str) -> Any:
    """Returns a top-level name's arrays as shapes, in dicts of dicts as Linen has them."""
    tree: dict[str, Any] = {}
    for name, (shape, dtype) in of_fields(arrays, [field]).items():
        *path, last = name.split(".")[1:]
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    return tree


def difference(saved: Arrays, wanted: Arrays) -> str | None:
    """Says of the first array that differs how it does; Orbax would cast, drop or choke on it."""
    for name in dict.fromkeys([*wanted, *saved]):
        if name not in saved:
            return f"no {name}, which the network has"
        if name not in wanted:
            return f"an array {name}, which the network has not"
        if saved[name] != wanted[name]:
            (old, old_type), (new, new_type) = saved[name], wanted[name]
            return f"{name} as {old_type}{list(old)}, and the network {new_type}{list(new)}"
    return None
