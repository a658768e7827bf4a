import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ddpm_jax.models.convolutions import DepthwiseConv, Double, Halve, depthwise_conv

from ddpm_jax.models import convolutions
from ddpm_jax.models.layers import GroupNorm


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("kind", [Halve, Double])
def test_resizing_is_a_4x4_convolution_of_stride_2(kind):
    shapes = (2, 4, 6, 3), (4, 4, 3, 3), (3,)
    x, kernel, bias = (jax.random.normal(jax.random.key(i), it) for i, it in enumerate(shapes))
    if kind is Halve:
        expected = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        # Blocks of 2×2 pixels are the channels: row = 2 · block + place within it.
        folded = kernel.reshape(2, 2, 2, 2, 3, 3).transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 12, 3)
        params = {"conv": {"kernel": folded, "bias": bias}}
    else:
        expected = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            [(2, 2), (2, 2)],
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        # A block's pixel i takes taps 1 - i and 3 - i of a kernel that is laid over the holes.
        folded = kernel.reshape(2, 2, 2, 2, 3, 3)[:, ::-1, :, ::-1]
        folded = folded.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, 3, 12)
        params = {"conv": {"kernel": folded}, "bias": bias}
    found: Any = kind("float32").apply({"params": params}, x)
    np.testing.assert_allclose(found, expected + bias, atol=1e-4)


def grouped_conv(x, kernel) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


# Whole images, and bands of at most 50 numbers, of which the last is not full; more and fewer of
# them than are added up at once.
@pytest.mark.parametrize("band", [2**15, 50])
@pytest.mark.parametrize("shape", [(2, 5, 9, 3), (1, 2, 2, 4), (9, 4, 4, 3), (16, 3, 2, 2)])
def test_depthwise_convolution_is_the_grouped_one_with_its_gradients(shape, band, monkeypatch):
    monkeypatch.setattr(convolutions, "_BAND", band)
    x, kernel, g = normal(0, shape), normal(1, (7, 5, shape[-1])), normal(2, shape)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(f):
        y, pull = jax.vjp(f, x, kernel)
        return y, pull(g)

    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5),
        value_and_gradients(depthwise_conv),
        value_and_gradients(grouped_conv),
    )


@pytest.mark.parametrize(("platform", "grouped"), [("cpu", 0), ("cuda", 3), ("tpu", 3)])
def test_depthwise_convolution_is_grouped_on_accelerators_only(platform, grouped):
    x, kernel = jnp.ones((2, 8, 8, 24)), jnp.ones((7, 7, 24))
    both = jax.jit(lambda x, kernel, g: jax.vjp(depthwise_conv, x, kernel)[1](g))
    text = both.trace(x, kernel, x).lower(lowering_platforms=(platform,)).as_text()
    forward = jax.jit(depthwise_conv).trace(x, kernel).lower(lowering_platforms=(platform,))
    text += forward.as_text()
    assert text.count("group_count = 24") == grouped


def test_a_normalisation_does_not_compute_the_convolution_again():
    x = normal(0, (2, 8, 8, 4))
    layers = DepthwiseConv(), GroupNorm(1)
    params = [layer.init(jax.random.key(0), x) for layer in layers]

    def normalized(params, x, shift):
        h: Any = layers[0].apply(params[0], x)
        return layers[1].apply(params[1], h + shift)

    compiled = jax.jit(normalized).lower(params, x, x[:, :1, :1]).compile()
    assert 49 <= (compiled.as_text() or "").count(" multiply(") < 2 * 49


def test_depthwise_convolution_sums_in_float32_but_keeps_the_dtype():
    half = [normal(i, s).astype(jnp.bfloat16) for i, s in enumerate([(1, 6, 6, 4), (7, 7, 4)])]
    g = normal(2, half[0].shape).astype(jnp.bfloat16)

    def with_gradients(convolve, arrays, g):
        y, pull = jax.vjp(convolve, *arrays)
        return y, *pull(g)

    found = with_gradients(depthwise_conv, half, g)
    whole = [array.astype(jnp.float32) for array in half]
    exact = with_gradients(grouped_conv, whole, g.astype(jnp.float32))
    for rough, fine in zip(found, exact, strict=True):
        assert rough.dtype == jnp.bfloat16
        np.testing.assert_allclose(rough.astype(jnp.float32), fine, rtol=2**-8, atol=1e-6)


def test_depthwise_kernels_start_with_the_variance_of_their_own_window():
    params: Any = DepthwiseConv().init(jax.random.key(0), jnp.ones((1, 7, 7, 64)))
    kernel = np.asarray(params["params"]["kernel"])
    assert kernel.shape == (7, 7, 64)
    np.testing.assert_allclose(np.std(kernel), 1 / 7, rtol=0.05)
