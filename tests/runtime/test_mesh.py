import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import mesh as meshes
from ddpm_jax.runtime.mesh import (
    fetch,
    local_rows,
    make_mesh,
    shard_batch,
    shard_rows,
    state_shardings,
)
from ddpm_jax.training.step import check_batch
from tests.tiny import TINY, changed


def test_all_devices_are_arranged_as_data_by_fsdp():
    assert dict(make_mesh(4).shape) == {"data": 2, "fsdp": 4}
    assert dict(make_mesh(1, devices=jax.devices()[:3]).shape) == {"data": 3, "fsdp": 1}


def test_an_fsdp_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(UserError, match=r"mesh.fsdp is 3; .* 8"):
        make_mesh(3)


def test_large_leaves_split_along_their_longest_axis_that_divides():
    leaves = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 128, 256), jnp.float32),
        "odd": jax.ShapeDtypeStruct((3, 3, 130, 256 + 1), jnp.float32),
        "bias": jax.ShapeDtypeStruct((256,), jnp.float32),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    specs = {name: s.spec for name, s in state_shardings(leaves, make_mesh(2)).items()}
    assert specs["kernel"] == PartitionSpec(None, None, None, "fsdp")
    assert specs["odd"] == PartitionSpec(None, None, "fsdp")
    assert specs["bias"] == specs["step"] == PartitionSpec()


def test_without_fsdp_every_device_holds_everything():
    leaf = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    assert state_shardings(leaf, make_mesh(1)).is_fully_replicated


def test_fsdp_divides_the_bytes_a_device_holds():
    leaf = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    sharding = state_shardings(leaf, make_mesh(8))
    assert sharding.shard_shape(leaf.shape) == (64, 512)


def test_rows_are_sharded_and_fetched_in_order():
    rows = np.arange(48, dtype=np.float32).reshape(16, 3)
    for mesh in (make_mesh(1), make_mesh(4), make_mesh(1, devices=jax.devices()[:1])):
        placed = shard_rows(rows, mesh)
        assert placed.sharding.shard_shape(rows.shape)[0] == 16 // mesh.size
        np.testing.assert_array_equal(fetch(placed), rows)
        np.testing.assert_array_equal(fetch(shard_batch(rows, mesh)), rows)


def test_a_process_holds_the_rows_of_its_devices(monkeypatch):
    devices = [*jax.devices()[4:], *jax.devices()[:4]]
    mesh = make_mesh(2, devices=devices)
    assert local_rows(mesh, 16).tolist() == list(range(16))
    whole, own = NamedSharding.addressable_devices_indices_map, set()
    monkeypatch.setattr(
        NamedSharding,
        "addressable_devices_indices_map",
        lambda self, shape: {d: i for d, i in whole(self, shape).items() if d in own},
    )
    # As if this process had only some of the mesh's devices; together they have each row once.
    for some, rows in (
        (devices[:4], [*range(8)]),
        (devices[4:], [*range(8, 16)]),
        (devices[1::3], [2, 3, 8, 9, 14, 15]),
    ):
        own.clear()
        own.update(some)
        assert local_rows(mesh, 16).tolist() == rows


def test_local_rows_are_sharded_to_their_global_positions(monkeypatch):
    found = {}

    def record(shape, sharding, part):
        found[shape] = [part((slice(None), slice(n, n + 2), slice(None))) for n in (4, 6)]
        return np.zeros(shape)

    monkeypatch.setattr(jax, "make_array_from_callback", record)
    batch = np.arange(2 * 8 * 3).reshape(2, 8, 3)
    rows = np.arange(4, 8)
    shard_batch(batch[:, rows], make_mesh(1), rows=rows, size=8, leading=1)
    (parts,) = found.values()
    assert list(found) == [(2, 8, 3)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), batch[:, 4:])


def test_a_batch_that_does_not_split_is_refused_with_a_size_that_does():
    config = changed(TINY, train={"batch_size": 20, "gradient_accumulation_steps": 2})
    with pytest.raises(UserError, match=r"; train\.batch_size 16 can"):
        check_batch(config, make_mesh())
    check_batch(
        changed(TINY, train={"batch_size": 32, "gradient_accumulation_steps": 2}), make_mesh()
    )


def test_arrays_below_the_smallest_split_are_replicated(monkeypatch):
    monkeypatch.setattr(meshes, "_SMALLEST_SPLIT", 1)
    bias = jax.ShapeDtypeStruct((256,), jnp.float32)
    assert state_shardings(bias, make_mesh(2)).spec == PartitionSpec("fsdp")
