"""A program's text, read: XLA's own on a CPU, and lines as the compilers of accelerators write."""

import jax
import jax.numpy as jnp

from ddpm_jax.reports.program import read_program, type_bytes

TEXT = """
HloModule jit_f

%fused (p: bf16[8,128]) -> f32[8,128] {
  ROOT %c = f32[8,128]{1,0:T(8,128)} convert(%p)
}

%body (s: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %step = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) custom-call(%s, %s), custom_call_target="f"
  ROOT %f = f32[8,128]{1,0:T(8,128)(2,1)} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/norm_0/mul"}
}

ENTRY %main (a: s32[]) -> s32[] {
  %w = (s32[], f32[8,128]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %r = s32[] get-tuple-element(%w), index=0
}
"""  # noqa: E501


def test_lines_have_their_parts():
    program = read_program(TEXT)
    assert program.entry == "main"
    step, fused = program.computations["body"]
    assert (step.name, step.opcode, step.operands) == ("step", "custom-call", ["s", "s"])
    assert type_bytes(step.result) == [4, 4 * 8 * 128]
    assert (fused.opcode, fused.called, fused.path) == ("fusion", ["fused"], "jit(f)/norm_0/mul")
    assert type_bytes("(bf16[2,3]{1,0}, token[], pred[])") == [12, 1]


def test_loops_count_and_what_is_fused_can_be_left_out():
    program = read_program(TEXT)
    times = {each.name: each.times for each in program.unrolled()}
    assert times == {"w": 1, "r": 1, "step": 7, "f": 7, "c": 7}
    assert "c" not in {each.name for each in program.unrolled(inside=False)}
    assert {each.name: each.times for each in program.unrolled(inside=False)}["f"] == 7


def test_xlas_own_text_is_read():
    def f(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x) @ x, None), x, length=5)[0]

    program = read_program(jax.jit(f).lower(jnp.ones((8, 8))).compile().as_text() or "")
    products = [each for each in program.unrolled() if each.opcode in ("dot", "custom-call")]
    assert [each.times for each in products] == [5]
    assert "dot_general" in products[0].path
