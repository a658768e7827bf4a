import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.ops import REFERENCE
from ddpm_jax.ops.resampling import (
    downsample_blocks,
    downsample_kernel,
    upsample_blocks,
    upsample_kernel,
    upsample_transposed,
    upsampled_convolution_transposed,
)

KERNEL = np.random.default_rng(0).normal(size=(4, 4, 3, 5))


@pytest.mark.parametrize(
    ("to_blocks", "to_kernel", "shape"),
    [
        (downsample_blocks, downsample_kernel, (2, 2, 12, 5)),
        (upsample_blocks, upsample_kernel, (2, 2, 3, 20)),
    ],
)
def test_rearranging_a_kernel_and_back_is_the_identity(to_blocks, to_kernel, shape):
    assert to_blocks(KERNEL).shape == shape
    np.testing.assert_array_equal(to_kernel(to_blocks(KERNEL)), KERNEL)


def test_upsampling_is_jaxs_transposed_convolution():
    x, kernel = (jnp.asarray(array, jnp.float32) for array in (np.ones((2, 4, 6, 3)), KERNEL))
    x = x * jnp.arange(6.0)[:, None]
    expected = jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")
    np.testing.assert_allclose(REFERENCE.upsample(x, kernel), expected, atol=1e-5)


def test_upsampling_is_the_transpose_of_downsampling_with_the_kernel_turned():
    down, up = REFERENCE.downsample, REFERENCE.upsample
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 6, 5)), jnp.float32)
    kernel = jnp.asarray(KERNEL, jnp.float32)
    shape = jax.ShapeDtypeStruct((2, 8, 12, 3), jnp.float32)
    (expected,) = jax.linear_transpose(lambda y: down(y, kernel), shape)(x)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    np.testing.assert_allclose(up(x, turned), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "reference", "side"),
    [
        (upsample_transposed, REFERENCE.upsample, 4),
        (upsampled_convolution_transposed, REFERENCE.upsampled_convolution, 3),
    ],
)
@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 1, 1, 3)])
def test_a_tpus_form_is_its_reference_with_its_gradients(form, reference, side, shape):
    rng = np.random.default_rng(2)
    x, kernel = (
        jnp.asarray(rng.normal(size=it), jnp.float32) for it in (shape, (side, side, 3, 5))
    )
    expected, pull = jax.vjp(reference, x, kernel)
    weight = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    found, pull_of_form = jax.vjp(form, x, kernel)
    for ours, theirs in zip((found, *pull_of_form(weight)), (expected, *pull(weight)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
