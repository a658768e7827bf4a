"""Devices as a mesh with a data axis and an fsdp axis, and what lies where on it.

The batch is split over all devices. Parameters, their average and the optimizer's moments are
split over the fsdp axis and copied along the data axis; with fsdp = 1 every device holds them
whole. The same program runs on one CPU and on a pod: only the mesh differs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from ddpm_jax.errors import UserError

_AXES = ("data", "fsdp")
_AUTO = (AxisType.Auto, AxisType.Auto)

# Splitting a bias saves nothing and costs a message.
_SMALLEST_SPLIT = 2**14


def make_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges all devices of all processes, or those given, as (data, fsdp).

    Raises UserError if `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(_shape(len(devices), fsdp), _AXES, axis_types=_AUTO, devices=devices)


def planned_mesh(fsdp: int, count: int) -> AbstractMesh:
    """The mesh that `make_mesh` makes of `count` devices, where there are none: for shapes alone.

    Raises UserError if `fsdp` does not divide `count`.
    """
    return AbstractMesh(_shape(count, fsdp), _AXES, axis_types=_AUTO)


def _shape(count: int, fsdp: int) -> tuple[int, int]:
    if count % fsdp:
        raise UserError(f"mesh.fsdp is {fsdp}; it must divide the number of devices, {count}")
    return count // fsdp, fsdp


def fitting_mesh(fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `fsdp` where it divides the number of devices, else one without fsdp.

    Trained on a pod, a run is looked at and sampled at a desk.
    """
    devices = jax.devices() if devices is None else devices
    return make_mesh(fsdp if len(devices) % fsdp == 0 else 1, devices)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh | AbstractMesh, *, leading: int = 0) -> NamedSharding:
    """The sharding of a batch over all devices; `leading` whole axes may stand before it."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, ("data", "fsdp")))


def state_shardings(state: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns a sharding a leaf: large arrays split along their longest axis that fsdp divides.

    `state` is a tree of arrays or of `jax.ShapeDtypeStruct`s; shapes alone decide, so that the
    moments and the average of a parameter always lie where the parameter lies.
    """
    ways = mesh.shape["fsdp"]

    def rule(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % ways == 0]
        if ways == 1 or not axes or math.prod(leaf.shape) < _SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(rule, state)


def with_shardings(shapes: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns shapes of a state with their shardings: what a restore or a compilation aims at."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )


def bytes_per_device(layout: Any) -> int:
    """Returns the bytes that one device holds of arrays, or of their shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(layout)
    )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns which rows of the global batch this process's devices hold, int64 `[R]`, rising.

    They follow from where its devices stand in the mesh, which need not be in processes' order.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    found = [np.arange(batch_size)[index] for index in places.values() if index is not None]
    return np.unique(np.concatenate(found))


def put_batch(
    batch: Any, mesh: Mesh, *, rows: np.ndarray | None = None, size: int = 0, leading: int = 0
) -> Any:
    """Puts this process's part of the global batch on its devices.

    `batch` holds the `rows` (rising) of a global batch of `size`; all of it unless they are given.
    `leading` whole axes stand before the rows.
    """
    sharding = batch_sharding(mesh, leading=leading)

    def put(x: np.ndarray) -> jax.Array:
        if rows is None:
            return _from_callback(x.shape, sharding, lambda index: x[index])
        held, shape = rows, (*x.shape[:leading], size, *x.shape[leading + 1 :])

        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[leading].indices(size)
            at = int(np.searchsorted(held, start))
            return x[(*index[:leading], slice(at, at + stop - start))]

        return _from_callback(shape, sharding, part)

    return jax.tree.map(put, batch)


def put_rows(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Spreads the rows of an array that every process holds whole over all devices."""
    return _from_callback(array.shape, batch_sharding(mesh), lambda index: array[index])


def _from_callback(
    shape: tuple[int, ...], sharding: NamedSharding, part: Callable[[Any], np.ndarray]
) -> jax.Array:
    """Asks `part` for what this process's devices hold, and puts it there."""
    return jax.make_array_from_callback(shape, sharding, part)


def fetch(array: jax.Array) -> np.ndarray:
    """Returns the whole of a sharded array on every process; all of them must call it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
