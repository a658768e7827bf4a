"""The activations against their closed forms, in their tails too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.ops import AUTO, REFERENCE

both = pytest.mark.parametrize("ops", [AUTO, REFERENCE], ids=["auto", "reference"])


@both
def test_swish_and_its_slope_are_those_of_the_sigmoid(ops):
    x = jnp.concatenate([jnp.linspace(-30.0, 30.0, 601), jnp.array([-1e4, 1e4])])
    np.testing.assert_allclose(ops.swish(x), jax.nn.swish(x), rtol=1e-6, atol=1e-7)
    ours, theirs = (jax.vmap(jax.grad(f))(x) for f in (ops.swish, jax.nn.swish))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@both
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gelu_is_exact_to_the_dtype_in_its_tail_too(ops, dtype):
    x = jnp.linspace(-6, 6, 2_001, dtype=dtype)
    y = jax.jit(ops.gelu)(x)
    assert y.dtype == x.dtype
    spacing = float(jnp.finfo(dtype).eps)
    exact = np.float32(x) * jax.scipy.stats.norm.cdf(np.float32(x))
    np.testing.assert_allclose(np.float32(y), exact, rtol=spacing, atol=1e-6)


@both
def test_mish_and_its_slope_are_those_of_its_definition(ops):
    x = jnp.array([-100.0, -20.0, -3.0, -1e-3, 0.0, 1e-3, 2.0, 19.9, 20.1, 100.0])
    np.testing.assert_allclose(ops.mish(x), jax.nn.mish(x), rtol=1e-5, atol=1e-7)
    slopes = (jax.vmap(jax.grad(f))(x) for f in (ops.mish, jax.nn.mish))
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-7)


def test_softplus_and_its_slope_are_right_to_the_last_digits():
    x = jnp.concatenate([jnp.linspace(-80, 80, 16_001), jnp.array([-1e4, 1e4, -np.inf, np.inf])])
    exact = np.logaddexp(0, np.asarray(x, np.float64))
    np.testing.assert_allclose(jax.jit(AUTO.softplus)(x), exact, rtol=4e-7, atol=0)
    slope = jax.vmap(jax.grad(AUTO.softplus))(x)
    np.testing.assert_allclose(
        slope, np.exp(-np.logaddexp(0, -np.asarray(x, np.float64))), rtol=4e-7
    )
    assert np.isnan(AUTO.softplus(jnp.array(jnp.nan)))


@both
def test_mish_keeps_its_slope_in_half_precision(ops):
    x = jnp.linspace(-20, 20, 801, dtype="bfloat16")
    slopes = jax.vjp(ops.mish, x)[1](jnp.ones_like(x))[0]
    exact = jax.vmap(jax.grad(jax.nn.mish))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(np.float32(slopes), exact, atol=0.02)
