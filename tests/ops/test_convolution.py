import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.ops import AUTO, REFERENCE, Operations


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_stride_2_pads_the_far_end_only():
    x, kernel = normal(0, (1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    pixels = np.asarray(x)[0, :, :, 0]
    windows = [[pixels[i : i + 3, j : j + 3].sum() for j in (0, 2)] for i in (0, 2)]
    for ops in (AUTO, REFERENCE):
        y = ops.convolution(x, kernel, strides=(2, 2))
        np.testing.assert_allclose(y[0, :, :, 0], windows, atol=1e-6)


def test_a_broken_kernel_has_no_gradient():
    x, g, kernel = normal(0, (2, 6, 6, 3)), normal(1, (2, 6, 6, 4)), normal(2, (3, 3, 3, 4))
    broken = kernel.at[0, 0, 0, 0].set(jnp.nan)
    for gradient in jax.jit(lambda: jax.vjp(AUTO.convolution, x, broken)[1](g))():
        assert jnp.isnan(gradient).all()


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_inside_a_loop_it_and_its_gradients_have_the_form_that_is_fast(devices, strides):
    images, kernel = jnp.ones((4, 2, 6, 6, 3)), normal(0, (3, 3, 3, 3))
    convolution = Operations(devices=devices).convolution

    def loss(kernel, x):
        y = jnp.tanh(convolution(x, kernel))
        return jnp.sum(convolution(y, kernel, strides=strides) ** 2)

    def accumulated(kernel, images):
        def add(total, x):
            return total + jax.grad(loss)(kernel, x), None

        return jax.lax.scan(add, jnp.zeros_like(kernel), images)[0]

    text = jax.jit(accumulated).lower(kernel, images).compile().as_text() or ""
    forms = re.findall(r" convolution\(.*dim_labels=(\S+?)[, ]", text)
    assert forms == ["b01f_01io->b01f"] * 5  # Two forward, two to the kernel, one to y.
