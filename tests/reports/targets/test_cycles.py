"""Cycles by what they are spent on: in a program's lines, and in the names that ours are traced."""

import re

import jax

from ddpm_jax.experiment import build
from ddpm_jax.reports.hardware import HARDWARE
from ddpm_jax.reports.program import read_program
from ddpm_jax.reports.targets.cycles import cycles_by_part, estimate, part_of
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.step import jit_train_step, step_layouts
from tests.tiny import UNET, changed

V5E = HARDWARE["TPU v5e"]
STEP = "jit(train_step)/transpose(jvp(UNet))"
PROGRAM = f"""
HloModule jit_step

%conv_fused (p: bf16[8,128]) -> bf16[8,128] {{
  %n = bf16[8,128] multiply(%p, %p), metadata={{op_name="{STEP}/down_0_0_block/norm_0/mul"}}
  %m = bf16[8,128] add(%n, %p), metadata={{op_name="{STEP}/down_0_0_block/norm_0/add"}}
  ROOT %k = bf16[8,128] convolution(%m, %m), metadata={{op_name="{STEP}/down_0_0_block/conv_0/conv_general_dilated"}}
}}

%query_fused (p: bf16[8,128]) -> bf16[8,128] {{
  ROOT %q = bf16[8,128] convolution(%p, %p), metadata={{op_name="{STEP}/middle_attention/query/dot_general"}}
}}

%moved (p: bf16[8,128]) -> f32[8,128] {{
  %t = bf16[8,128] transpose(%p), metadata={{op_name="{STEP}/down_0_0_block/norm_0/mul"}}
  ROOT %u = f32[8,128] convert(%t)
}}

%body (s: (s32[])) -> (s32[]) {{
  %norm = f32[8,128] reduce(%x), metadata={{op_name="{STEP}/up_0_0_block/norm_1/reduce_sum"}}, backend_config={{"window_config":{{"estimated_cycles":"5"}}}}
  ROOT %o = f32[8,128] add(%x), metadata={{op_name="jit(train_step)/optimizer/add"}}, backend_config={{"estimated_cycles":"7"}}
}}

ENTRY %main (a: s32[]) -> s32[] {{
  %x = f32[8,128]{{1,0}} parameter(0)
  %a = bf16[8,128] fusion(%x), calls=%conv_fused, metadata={{op_name="{STEP}/down_0_0_block/norm_1/mul"}}, backend_config={{"estimated_cycles":"1000"}}
  %b = bf16[8,128] fusion(%x), calls=%query_fused, backend_config={{"estimated_cycles":"100"}}
  %c = f32[8,128] fusion(%x), calls=%moved, backend_config={{"estimated_cycles":"10"}}
  %r = u32[8,128] custom-call(%x), metadata={{op_name="jit(train_step)/draw/threefry2x32"}}
  %j = f32[8,128] custom-call(%x, %x), custom_call_target="ConcatBitcast", metadata={{op_name="{STEP}/conv_in/add"}}
  %s = f32[4] all-reduce(%x), replica_groups=[1,8]<=[8], backend_config={{"estimated_cycles":"3"}}
  ROOT %w = (s32[]) while(%t), condition=%q, body=%body, backend_config={{"known_trip_count":{{"n":"10"}}}}
}}
"""  # noqa: E501


def test_cycles_are_summed_by_part_and_loops_count():
    found = cycles_by_part(read_program(PROGRAM), V5E)
    moved = round(2 * 4 * 8 * 128 / V5E.memory_rate * (V5E.clock or 0))
    assert moved > 0
    assert found == {
        "convolutions": 1000,
        "attention": 100,
        "copies and conversions": 10,
        "random numbers": moved,
        "normalisation": 50,
        "optimizer and averages": 70,
    }


def test_the_estimate_is_that_of_a_device():
    program = read_program(PROGRAM)
    found = estimate(program, V5E, {"flops": 8.0, "bytes accessed": 9.0}, 16, 10**9)
    assert found["cycles"] == sum(found["cycles_by_part"].values())
    seconds = found["ms"] / 1e3
    assert abs(found["cycles"] / seconds / 1.5e9 - 1) < 0.01
    assert abs(found["images_per_s_and_device"] * seconds / 16 - 1) < 1e-6
    assert abs(found["share_of_peak"] * seconds * 197e12 / 1e9 - 1) < 1e-6
    assert found["compiled_bytes_per_device"] == 9
    assert found["not_hidden"] == {
        name: found[name] for name in ("images_per_s_and_device", "share_of_peak")
    }
    slower = estimate(program, V5E, {}, 16, 10**9, exchange=seconds)["not_hidden"]
    assert abs(slower["share_of_peak"] / found["share_of_peak"] - 0.5) < 1e-6
    assert abs(slower["images_per_s_and_device"] / found["images_per_s_and_device"] - 0.5) < 1e-6
    assert estimate(program, HARDWARE["H100 SXM"], {}, 16, 10**9) == {}


def test_our_own_step_has_names_for_its_parts():
    config = changed(UNET, model={"attention": (8,)})
    mesh = make_mesh(1, jax.devices()[:1])
    experiment = build(config)
    lowered = jit_train_step(experiment, mesh).lower(*step_layouts(experiment, mesh))
    text = lowered.as_text(dialect="hlo", debug_info=True)
    program = read_program(re.sub(r"\n(\w+) \{", r"\n%\1 () -> () {", text))
    found = {part_of(each, program) for lines in program.computations.values() for each in lines}
    wanted = {"random numbers", "optimizer and averages", "attention", "normalisation"}
    assert wanted | {"convolutions", "dense layers"} <= found
