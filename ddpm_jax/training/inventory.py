"""Which arrays a checkpoint holds, against those that a network has."""

from typing import Any

import jax

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


def described(metadata: Any, fields: list[str]) -> Arrays:
    """Returns what Orbax says that a checkpoint holds of some top-level names, nothing of it read.

    Raises OSError if Orbax can't open it.
    """
    if metadata.item_metadata is None:
        raise OSError("Orbax can't open its arrays")  # It has kept the reason to itself.
    tree = metadata.item_metadata.tree
    return named({name: tree[name] for name in fields if name in tree})


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
