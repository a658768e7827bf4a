"""Devices as a mesh with a data axis and an fsdp axis, and how arrays are sharded over it.

The batch is split over all devices. Parameters, their average and the optimizer's moments are
split over the fsdp axis and replicated along the data axis. With fsdp = 1, every device holds them
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

# Splitting a small array, such as a bias, saves no memory worth a message.
_SMALLEST_SPLIT = 2**14


def all_devices(*, local: bool = False) -> list[Any]:
    """Returns the devices of all processes, or this one's; UserError if JAX can't start them."""
    try:
        return jax.local_devices() if local else jax.devices()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"JAX has no device to run on: {reason}; fix or unset JAX_PLATFORMS"
        ) from None


def make_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a (data, fsdp) mesh of the given devices, by default all devices of all processes.

    Raises UserError if `fsdp` does not divide the number of devices.
    """
    devices = all_devices() if devices is None else devices
    return jax.make_mesh(_shape(len(devices), fsdp), _AXES, axis_types=_AUTO, devices=devices)


def abstract_mesh(fsdp: int, count: int) -> AbstractMesh:
    """Returns the mesh that `make_mesh` makes of `count` devices, without devices: for shapes only.

    Raises UserError if `fsdp` does not divide `count`.
    """
    return AbstractMesh(_shape(count, fsdp), _AXES, axis_types=_AUTO)


def _shape(count: int, fsdp: int) -> tuple[int, int]:
    if count % fsdp:
        raise UserError(f"mesh.fsdp is {fsdp}; it must divide the number of devices, {count}")
    return count // fsdp, fsdp


def fitting_mesh(fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh with `fsdp` if it divides the number of devices, else with fsdp = 1.

    So a run that was trained on a pod can be sampled on any machine.
    """
    devices = all_devices() if devices is None else devices
    return make_mesh(fsdp if len(devices) % fsdp == 0 else 1, devices)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh | AbstractMesh, *, leading: int = 0) -> NamedSharding:
    """Returns the sharding of a batch over all devices; `leading` axes before it are not split."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, ("data", "fsdp")))


def state_shardings(state: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns a sharding per leaf: large arrays are split on the longest axis that fsdp divides.

    `state` is a tree of arrays or of `jax.ShapeDtypeStruct`s. Only shapes decide, so the moments
    and the average of a parameter are always sharded like the parameter.
    """
    parts = mesh.shape["fsdp"]

    def rule(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not axes or math.prod(leaf.shape) < _SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(rule, state)


def gather_over(mesh: Mesh | None, params: Any) -> Any:
    """Makes parameters whole that are split over a mesh; for a program that calls a network.

    Otherwise XLA splits the network's products as the parameters are split, and exchanges
    activations in every layer.
    """
    if mesh is None or mesh.shape["fsdp"] == 1:
        return params
    return jax.lax.with_sharding_constraint(params, replicated(mesh))


def with_shardings(shapes: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Returns the shapes of a state with their shardings, for a restore or a compilation."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )


def bytes_per_device(layout: Any) -> int:
    """Returns the bytes per device of sharded arrays, or of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(layout)
    )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns the rows of the global batch on this process's devices, int64 `[R]`, in rising order.

    The mesh decides; its devices need not be in the order of the processes.
    """
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    found = [np.arange(batch_size)[index] for index in slices.values() if index is not None]
    return np.unique(np.concatenate(found))


def shard_batch(
    batch: Any, mesh: Mesh, *, rows: np.ndarray | None = None, size: int = 0, leading: int = 0
) -> Any:
    """Returns the global batch as sharded arrays; each process gives its own rows.

    `batch` holds the `rows` (rising) of a global batch of `size`, or all rows if none are given.
    `leading` axes stand before the rows and are not split.
    """
    sharding = batch_sharding(mesh, leading=leading)

    def shard(x: np.ndarray) -> jax.Array:
        if rows is None:
            return _from_callback(x.shape, sharding, lambda index: x[index])
        held, shape = rows, (*x.shape[:leading], size, *x.shape[leading + 1 :])

        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[leading].indices(size)
            at = int(np.searchsorted(held, start))
            return x[(*index[:leading], slice(at, at + stop - start))]

        return _from_callback(shape, sharding, part)

    return jax.tree.map(shard, batch)


def shard_rows(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Splits the rows of an array over all devices; every process gives the whole array."""
    return _from_callback(array.shape, batch_sharding(mesh), lambda index: array[index])


def _from_callback(
    shape: tuple[int, ...], sharding: NamedSharding, part: Callable[[Any], np.ndarray]
) -> jax.Array:
    """Returns the array whose shards on this process's devices come from `part`."""
    return jax.make_array_from_callback(shape, sharding, part)


def fetch(array: jax.Array) -> np.ndarray:
    """Returns a whole sharded array on every process; all processes must call it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
