import jax

from ddpm_jax.reports.program import read_program
from ddpm_jax.reports.targets.shows import shown_by

CUDNN = """
ENTRY %main (a: bf16[6,8,8,16]) -> bf16[6,8,8,16] {
  %a = bf16[6,8,8,16]{3,2,1,0} parameter(0)
  %k = f32[3,3,16,16]{3,2,1,0} parameter(1)
  %x = f32[6,8,8,16]{3,2,1,0} convert(%a)
  %y = (f32[6,8,8,16], u8[0]) custom-call(%x, %k), custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/transpose(jvp(UNet))/conv_in/cond/branch_0_fun/transpose(jvp())/conv_general_dilated"}
  %z = (bf16[6,8,8,16], u8[0]) custom-call(%a, %a), custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/UNet/conv_0/conv_general_dilated"}
  %s = bf16[16,6,8,8]{3,2,1,0} transpose(%a), dimensions={3,0,1,2}
  ROOT %t = f32[16,3,3,16]{3,2,1,0} transpose(%k), dimensions={3,0,1,2}
}
"""  # noqa: E501


TPUS = """
ENTRY %main (a: bf16[6,8,8,16]) -> bf16[6,8,8,16] {
  %a = bf16[6,8,8,16]{0,3,2,1:T(8,128)(2,1)} parameter(0)
  %x = f32[6,8,8,16]{0,3,2,1:T(8,128)} parameter(1)
  %y = f32[6,8,8,16] convolution(%x, %x), dim_labels=b01f_01io->b01f, metadata={op_name="jit(f)/UNet/conv_out/conv_general_dilated"}
  %z = f32[6,8,8,16] convolution(%a, %a), dim_labels=b01f_01io->b01f, metadata={op_name="jit(f)/UNet/conv_0/conv_general_dilated"}
  ROOT %p = f32[6,16] convolution(%x, %x), dim_labels=bf_io->bf, metadata={op_name="jit(f)/UNet/time_in/dot_general"}
}
"""  # noqa: E501


def test_cudnns_calls_are_convolutions():
    found = shown_by(read_program(CUDNN), 6, {})
    assert found == {"float32_convolutions": ["conv_in"], "transposed_activations": 1}
    assert shown_by(read_program(CUDNN), 5, {})["transposed_activations"] == 0


def test_a_kernel_of_as_many_channels_as_images_is_no_activation():
    kernel = jax.ShapeDtypeStruct((3, 3, 16, 16), "float32")
    assert shown_by(read_program(CUDNN), 16, {})["transposed_activations"] == 2
    assert shown_by(read_program(CUDNN), 16, {"kernel": kernel})["transposed_activations"] == 1


def test_a_tpus_products_are_none():
    assert shown_by(read_program(TPUS), 6, {})["float32_convolutions"] == ["conv_out"]
