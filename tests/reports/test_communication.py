"""What the compiled training step sends between eight devices, and no more than it has to."""

import jax
import pytest

from ddpm_jax.config import Config, DiffusionConfig, MlpConfig, PointsData, SampleConfig
from ddpm_jax.config import TrainConfig as Train
from ddpm_jax.experiment import build
from ddpm_jax.reports.communication import Collective, collectives, sent
from ddpm_jax.reports.program import read_program
from ddpm_jax.runtime import mesh as meshes
from ddpm_jax.runtime.mesh import bytes_per_device, make_mesh, with_shardings
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.training.step import jit_train_step, step_layouts
from tests.tiny import UNET, changed

# Wide enough that some of its kernels are split, and narrow enough that its biases are not.
POINTS = Config(
    data=PointsData(size=64),
    model=MlpConfig(width=128, layers=2),
    diffusion=DiffusionConfig(timesteps=10),
    train=Train(batch_size=16),
    sample=SampleConfig(clipping="none"),
)
SCALAR = 4
"""Bytes of one: the loss is a mean over devices, and so is the norm of a gradient in parts."""


def of_kind(table, kind):
    """The summed bytes of the collectives of a kind; each iteration of a loop counts."""
    return sum(each.times * each.bytes for each in table if each.kind == kind)


def compiled(config, devices=8):
    """The training step, with the layouts of its state and batch."""
    mesh = make_mesh(config.mesh.fsdp, jax.devices()[:devices])
    experiment = build(config, devices=mesh.size)
    state, batch, inputs = step_layouts(experiment, mesh)
    return jit_train_step(experiment, mesh).lower(state, batch, inputs).compile(), state, batch


def size(params):
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(params))


def test_data_parallel_sums_the_gradient_once_and_sends_nothing_else():
    # A U-Net with attention, dropout and labels: neither noise nor activations cross the mesh.
    program, state, _ = compiled(UNET)
    whole = size(state.params)
    assert collectives(read_program(program.as_text())) == [
        Collective("all-reduce", whole + SCALAR, 8)
    ]


@pytest.mark.parametrize("several", ["gradient_accumulation_steps", "steps_per_dispatch"])
def test_the_gradient_is_summed_once_a_part_and_once_a_step(several):
    program, state, _ = compiled(changed(POINTS, train={several: 2}))
    expected = Collective("all-reduce", size(state.params) + SCALAR, 8, times=2)
    assert collectives(read_program(program.as_text())) == [expected]


@pytest.mark.parametrize("fsdp", [4, 8])
def test_fsdp_gathers_each_parameter_once_and_sums_each_gradient_once(fsdp, monkeypatch):
    # Everything that can be split is, small as it is here.
    monkeypatch.setattr(meshes, "_SMALLEST_SPLIT", 1)
    config = changed(UNET if fsdp == 4 else POINTS, mesh={"fsdp": fsdp})
    program, state, _ = compiled(config)
    leaves = jax.tree.leaves(state.params)
    split = [leaf for leaf in leaves if not leaf.sharding.is_fully_replicated]
    assert len(split) > 0.8 * len(leaves)
    table = collectives(read_program(program.as_text()))
    assert {each.kind for each in table} == {"all-gather", "all-reduce"}
    assert of_kind(table, "all-gather") == size(split)
    # XLA has no reduce-scatter on a CPU. The norm is one number of each parameter's parts, and is
    # taken for the metrics and for clipping.
    norms = 2 * len(split) * SCALAR
    summed = of_kind(table, "all-reduce") - size(leaves) - SCALAR
    assert 0 <= summed <= norms
    assert {each.group for each in table if each.kind == "all-gather"} == {fsdp}


def test_a_chain_gathers_each_parameter_once_and_sends_nothing_else(monkeypatch):
    monkeypatch.setattr(meshes, "_SMALLEST_SPLIT", 1)
    mesh, experiment = make_mesh(4), build(UNET, devices=8)
    params = with_shardings(experiment.param_shapes, mesh)
    split = [leaf for leaf in jax.tree.leaves(params) if not leaf.sharding.is_fully_replicated]
    chain = SampleProgram(experiment, mesh, UNET.sample)
    table = collectives(read_program(chain.lower(params, 8).compile().as_text()))
    assert {each.kind for each in table} == {"all-gather"}
    assert of_kind(table, "all-gather") == size(split)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_fsdp_divides_what_a_device_holds(devices):
    program, state, batch = compiled(changed(POINTS, mesh={"fsdp": devices}), devices)
    plan = program.memory_analysis()
    numbers = 3 * 4  # The seed, the learning rate and the limit, in four bytes each.
    held = plan.argument_size_in_bytes - bytes_per_device(batch) - numbers
    assert held == bytes_per_device(state)
    leaves = jax.tree.leaves(state)
    split = [leaf for leaf in leaves if leaf.size >= meshes._SMALLEST_SPLIT]
    assert size(split) > 0.8 * size(leaves)
    assert held == size(split) // devices + size(leaves) - size(split)
    # The new state takes the place of the old one.
    assert plan.alias_size_in_bytes == held


# As XLA writes it on one backend or another; some of it shortened.
PROGRAM = """
HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %scatter = bf16[8]{0} reduce-scatter(%g), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %t = (s32[], bf16[64]) tuple(%i, %x)
}

%body (p: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %w = (s32[], bf16[64]) while(%p), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
  %sum = (f32[2,3]{1,0}, /*index=1*/f32[]) all-reduce(%a, %b), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %t = (s32[], bf16[64]) tuple(%i, %x)
}

%left (p: f32[4]) -> f32[4] {
  ROOT %moved = f32[4]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}

%right (p: f32[4]) -> f32[4] {
  ROOT %swapped = f32[4]{0} all-to-all(%p), replica_groups={{0,1},{2,3}}, dimensions={0}
}

%all-reduce-scatter.1 (p: bf16[64]) -> bf16[8] {
  %g = bf16[64]{0} all-reduce(%p), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %part = bf16[8]{0} dynamic-slice(%g, %i), dynamic_slice_sizes={8}
}

%first (p: bf16[2]) -> (bf16[2], bf16[8]) {
  %ahead = bf16[8]{0} all-gather(%p), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="1"}
  ROOT %start = (bf16[2]{0}, bf16[8]{0}) custom-call(%ahead), custom_call_target="AsyncCollectiveStart"
}

%beside (p: bf16[2]) -> bf16[8] {
  ROOT %further = bf16[8]{0} all-gather(%p), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="1"}
}

ENTRY %main (p: (s32[], bf16[64])) -> (s32[], bf16[64]) {
  %rs = bf16[8] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %f1 = (bf16[2], bf16[8]) fusion(%x), calls=%first
  %f2 = bf16[8] fusion(%f1), calls=%beside
  %f3 = bf16[8] fusion(%f2), calls=%beside
  %w = (s32[], bf16[64]) while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %alone = f32[9]{0} all-reduce(%z), replica_groups=[8,1]<=[8], to_apply=%add
  %begun = (f32[2]{0}, f32[8]{0}) all-gather-start(%z), replica_groups=mesh['x'=2,'y'=4], device_ids=([2,4]T(1,0)) {'y'}, dimensions={0}
  %ended = f32[8]{0} all-gather-done(%begun)
  %b = f32[4]{0} conditional(%i, %x, %y), branch_computations={%left, %right}
  ROOT %t = (s32[], bf16[64]) tuple(%i, %x)
}
"""  # noqa: E501


def test_a_program_is_read_with_its_loops_and_branches():
    assert sorted(collectives(read_program(PROGRAM))) == sorted(
        [
            Collective("all-gather", 16, 4),
            Collective("all-gather", 32, 4),
            Collective("all-reduce", 28, 4, times=3),
            Collective("reduce-scatter", 128, 8),
            Collective("reduce-scatter", 128, 8, times=15),
            Collective("collective-permute", 16, 2),
            Collective("all-to-all", 16, 2),
        ]
    )


@pytest.mark.parametrize("devices", [2, 8, 64])
def test_a_ring_sends_what_the_closed_forms_say(devices):
    gather = Collective("all-gather", 960, devices)
    scatter, reduce = gather._replace(kind="reduce-scatter"), gather._replace(kind="all-reduce")
    assert gather.sent == 960 * (devices - 1) / devices
    assert reduce.sent == pytest.approx(gather.sent + scatter.sent)
    assert sent([reduce, reduce]) == sent([reduce._replace(times=2)])
    assert reduce._replace(group=1).sent == 0
