import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.ops import AUTO, REFERENCE
from ddpm_jax.ops.attention import attend, gradients, reference


def test_products_that_would_overflow_the_exponential_do_not():
    rng = np.random.default_rng(0)
    query, key, value, weight = (
        jnp.asarray(rng.normal(size=(2, 5, 3, 4)) + shift, jnp.float32) for shift in (30, 30, 0, 0)
    )

    def all_of(attend):
        y, pull = jax.vjp(attend, query, key, value)
        return y, *pull(weight)

    # A product of 30² is known to 2e-4, and the gradients grow as query and key do.
    for ours, theirs in zip(all_of(AUTO.attention), all_of(REFERENCE.attention), strict=True):
        assert jnp.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5 * (1 + 30**2 / 10))


@pytest.mark.parametrize("heads", [1, 2])
def test_both_orders_of_heads_are_the_operation(heads):
    # A TPU's is the second: here it is computed on a CPU.
    rng = np.random.default_rng(1)
    query, key, value, g = (
        jnp.asarray(rng.normal(size=(2, pixels, 3, 4)), jnp.float32) for pixels in (5, 7, 7, 5)
    )
    result, weight, total = attend(query, key, value, heads=heads)
    y, pull = jax.vjp(reference, query, key, value)
    np.testing.assert_allclose(result, y, rtol=1e-5, atol=1e-6)
    assert weight.shape == (2, 3, 5, 7)
    np.testing.assert_allclose(weight.sum(-1, keepdims=True), total, rtol=1e-5)
    found = gradients(query, key, value, weight, total, result, g, heads=heads)
    for ours, theirs in zip(found, pull(g), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_tpu_gets_its_own_order():
    x = jnp.zeros((2, 5, 3, 4))

    def text(platform):
        traced = jax.jit(AUTO.attention).trace(x, x, x)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert "batching_dims = [0, 2] x [0, 2]" in text("tpu")
    assert "batching_dims = [0, 2] x [0, 2]" not in text("cpu")
