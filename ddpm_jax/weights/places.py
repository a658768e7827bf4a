"""A map of names: which tensor of another project is which of our parameters, in which layout.

A format gives a list of `Place`; `to_params` and `to_tensors` apply any of them in either
direction. So a map that imports is also one that exports.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.checkpoints.manifest import by_name, nested
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.weights.tensors import Tensors

Arrays = Sequence[np.ndarray]


class Layout(NamedTuple):
    """How the axes of a tensor and of our parameters go together; both are exact."""

    split: Callable[[np.ndarray], Arrays]
    """Our parameters, in the order of the place, from the tensor."""
    join: Callable[[Arrays], np.ndarray]
    """The tensor from our parameters."""


class Place(NamedTuple):
    """One tensor of another project, and the parameters of ours that it holds."""

    tensor: str
    params: tuple[str, ...]
    """Dotted names; several for a tensor that joins them."""
    layout: Layout


def permuted(to_ours: Sequence[int], to_theirs: Sequence[int]) -> Layout:
    """Returns the layout that transposes axes, by the order in each direction."""
    return Layout(lambda x: [x.transpose(to_ours)], lambda own: own[0].transpose(to_theirs))


SAME = Layout(lambda x: [x], lambda own: own[0])
KERNEL = permuted((2, 3, 1, 0), (3, 2, 0, 1))
"""[out, in, height, width] and [height, width, in, out]."""
MATRIX = permuted((1, 0), (1, 0))
"""[out, in] and [in, out]."""


def pointwise(axes: int) -> Layout:
    """Returns the layout of a convolution over one pixel, with so many axes of length 1."""
    ones = (1,) * axes
    return Layout(
        lambda x: [x.reshape(x.shape[:2]).T],
        lambda own: own[0].T.reshape(*own[0].T.shape, *ones),
    )


def merged_heads(heads: int, *, split_first: bool, axes: int) -> Layout:
    """Returns the layout of query, key and value in one tensor over one pixel.

    `heads` have their three parts side by side, unless the three are `split_first`. Our parameters
    are three kernels [in, heads · c], or three biases.
    """

    def split(x: np.ndarray) -> Arrays:
        x = x.reshape(x.shape[:2])
        order = (3, heads) if split_first else (heads, 3)
        parts = x.reshape(*order, -1, *x.shape[1:])
        parts = parts if split_first else parts.swapaxes(0, 1)
        return [part.reshape(-1, *part.shape[2:]).T for part in parts]

    def join(own: Arrays) -> np.ndarray:
        parts = np.stack([each.T.reshape(heads, -1, *each.T.shape[1:]) for each in own])
        parts = parts if split_first else parts.swapaxes(0, 1)
        ones = (1,) * axes if parts.ndim > 3 else ()
        return parts.reshape(-1, *parts.shape[3:], *ones)

    return Layout(split, join)


NO_CLASS_LEFT_OUT = Layout(
    lambda x: [np.concatenate([x, np.zeros_like(x[:1])])], lambda own: own[0][:-1]
)
"""A table of labels without our last row, "no class"; a network that has not seen it gets zeros."""


def places_of(
    shapes: Any,
    module: Callable[[str], str],
    layout: Callable[[str], Layout | None] = lambda name: None,
) -> list[Place]:
    """Returns the map of a project that names modules as PyTorch does.

    `shapes` are our parameters. `module` gives the name of a module of ours, and `layout` that of a
    parameter, None for the usual one. Parameters with one name share their tensor, and then query
    comes before key and value.
    """
    found: dict[str, Place] = {}
    for name, leaf in by_name(shapes).items():
        path, _, last = name.rpartition(".")
        tensor = f"{module(path)}.{'bias' if last == 'bias' else 'weight'}"
        usual = {"kernel4": KERNEL, "kernel2": MATRIX}.get(f"{last}{leaf.ndim}", SAME)
        params = (*(found[tensor].params if tensor in found else ()), name)
        params = tuple(sorted(params, key=lambda each: ".query." not in each))
        found[tensor] = Place(tensor, params, layout(name) or usual)
    return list(found.values())


def to_params(places: Sequence[Place], tensors: Tensors, shapes: Any, where: str) -> Any:
    """Returns a tree like `shapes`, float32, filled from another project's tensors.

    `tensors` is emptied on the way, because both sides may be too much for the memory at once.
    Raises UserError, which begins with `where`, and names a tensor without a place, a place without
    its tensor, and a tensor of another shape, of a type that is no float, or with values that are
    not finite.
    """
    wanted: Mapping[str, Any] = by_name(shapes)
    known = [place.tensor for place in places]
    for name in sorted(set(known) - set(tensors)):
        hint = nearest(name, sorted(set(tensors) - set(known)))
        raise UserError(f"{where} has no {name}{hint}, which this network needs")
    for name in sorted(set(tensors) - set(known)):
        raise UserError(f"{where} has {name}, for which this network has no place")
    found: dict[str, np.ndarray] = {}
    for place in places:
        tensor = tensors.pop(place.tensor)
        shape = _joined_shape(place, wanted)
        if tensor.shape != shape or tensor.dtype.kind not in "fV":
            raise UserError(
                f"{where}: {place.tensor} is {tensor.dtype} {list(tensor.shape)}; it must be a "
                f"float {list(shape)}"
            )
        with np.errstate(over="ignore"):  # Infinity is refused next.
            tensor = tensor.astype(np.float32, copy=False)
        if not np.isfinite(tensor).all():
            raise UserError(f"{where}: {place.tensor} has values that are not finite")
        own = zip(place.params, place.layout.split(tensor), strict=True)
        found |= {name: np.ascontiguousarray(array) for name, array in own}
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise UserError(f"{where}: this format has no place for {missing[0]}")
    return nested(found)


def to_tensors(places: Sequence[Place], params: Any) -> Tensors:
    """Returns another project's tensors from our parameters; the inverse of `to_params`.

    Raises UserError for a parameter that has no place.
    """
    arrays: Mapping[str, Any] = by_name(params)
    placed = {name for place in places for name in place.params}
    for name in sorted(arrays.keys() - placed):
        raise UserError(f"the parameter {name} has no place in this format")
    return {
        place.tensor: place.layout.join([np.asarray(arrays[name]) for name in place.params])
        for place in places
    }


def _joined_shape(place: Place, wanted: Mapping[str, Any]) -> tuple[int, ...]:
    nothing = np.zeros((), np.float32)
    own = [np.broadcast_to(nothing, wanted[name].shape) for name in place.params]
    return place.layout.join(own).shape
