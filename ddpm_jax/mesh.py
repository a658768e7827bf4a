"""Devices as a mesh with a data axis and an fsdp axis, and what lies where on it.

The batch is split over all devices. Parameters, their average and the optimizer's moments are
split over the fsdp axis and copied along the data axis; with fsdp = 1 every device holds them
whole. The same program runs on one CPU and on a pod: only the mesh differs.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError

# Splitting a bias saves nothing and costs a message.
_SMALLEST_SPLIT = 2**14


def make_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges all devices of all processes, or those given, as (data, fsdp).

    Raises UserError if `fsdp` does not divide the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    if count % fsdp:
        raise UserError(f"mesh.fsdp is {fsdp}; it must divide the number of devices, {count}")
    axes = (AxisType.Auto, AxisType.Auto)
    shape = (count // fsdp, fsdp)
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=axes, devices=devices)


def fitting_mesh(fsdp: int) -> Mesh:
    """The mesh of `fsdp` where it divides this machine's devices, else one without fsdp.

    Trained on a pod, a run is looked at and sampled at a desk.
    """
    return make_mesh(fsdp if jax.device_count() % fsdp == 0 else 1)


def check_batch(config: Config, mesh: Mesh) -> None:
    """Raises UserError if a part of the batch can't be split evenly over the devices."""
    part = config.train.batch_size // config.train.accumulate
    if part % mesh.size:
        better = max(1, round(part / mesh.size)) * mesh.size * config.train.accumulate
        raise UserError(
            f"train.batch_size {config.train.batch_size} in {config.train.accumulate} part(s) "
            f"can't be split over {mesh.size} devices; --train.batch_size {better} can"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, leading: int = 0) -> NamedSharding:
    """The sharding of a batch over all devices; `leading` whole axes may stand before it."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, ("data", "fsdp")))


def state_shardings(state: Any, mesh: Mesh) -> Any:
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


def put_batch(batch: Any, mesh: Mesh, *, leading: int = 0) -> Any:
    """Puts this process's rows of the global batch on its devices."""
    sharding = batch_sharding(mesh, leading=leading)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_rows(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Spreads the rows of an array that every process holds whole over all devices."""
    return jax.make_array_from_callback(
        array.shape, batch_sharding(mesh), lambda index: array[index]
    )


def fetch(array: jax.Array) -> np.ndarray:
    """Returns the whole of a sharded array on every process; all of them must call it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
