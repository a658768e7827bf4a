import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.reports.program import read_program
from ddpm_jax.reports.targets.shows import shown_by

CUDNN = """
ENTRY %main (a: bf16[6,8,8,16]) -> bf16[6,8,8,16] {
  %a = bf16[6,8,8,16]{3,2,1,0} parameter(0)
  %k = f32[3,3,16,16]{3,2,1,0} parameter(1)
  %x = f32[6,8,8,16]{3,2,1,0} convert(%a)
  %y = (f32[6,8,8,16], u8[0]) custom-call(%x, %k), custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/UNet/conv_in/conv_general_dilated"}
  %z = (bf16[6,8,8,16], u8[0]) custom-call(%a, %a), custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/UNet/conv_0/conv_general_dilated"}
  %s = bf16[16,6,8,8]{3,2,1,0} transpose(%a), dimensions={3,0,1,2}
  ROOT %t = f32[16,3,3,16]{3,2,1,0} transpose(%k), dimensions={3,0,1,2}
}
"""  # noqa: E501


def test_cudnns_calls_are_convolutions():
    found = shown_by(read_program(CUDNN), 6)
    assert found == {"float32_convolutions": ["conv_in"], "transposed_activations": 1}
    assert shown_by(read_program(CUDNN), 5)["transposed_activations"] == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_xlas_own_convolutions_are_seen(dtype):
    def convolve(x, kernel):
        with jax.named_scope("conv_7"):
            layout = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    x, kernel = jnp.ones((6, 8, 8, 4), dtype), jnp.ones((3, 3, 4, 4), dtype)
    program = read_program(jax.jit(convolve).lower(x, kernel).as_text(dialect="hlo") or "")
    assert len(program.computations) == 1
    text = jax.jit(convolve).lower(x, kernel).compile().as_text() or ""
    found = shown_by(read_program(text), 6)["float32_convolutions"]
    # A CPU computes in float32 whatever it is given.
    assert found == ["conv_7"] or "__onednn" in text or "convolution" not in text
