import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.ops import AUTO, REFERENCE
from ddpm_jax.ops.group_norm import _mean_by_product, _mean_by_sums


@pytest.mark.parametrize("ops", [AUTO, REFERENCE], ids=["auto", "reference"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (100.0, 1.0), (-3.0, 1e-2)])
@pytest.mark.parametrize(("shape", "activation"), [((2, 6, 4, 24), "swish"), ((3, 12), None)])
def test_it_equals_a_two_pass_one_with_its_gradients(ops, shape, activation, mean, std):
    rng = np.random.default_rng(0)
    channels = shape[-1]
    x = jnp.asarray(mean + std * rng.normal(size=shape) * np.linspace(0.5, 2.0, channels))
    x, weight = x.astype(jnp.float32), jnp.asarray(rng.normal(size=shape), jnp.float32)
    scale, bias = jnp.asarray(rng.normal(size=(2, channels)), jnp.float32)
    oracle = nn.GroupNorm(num_groups=3, epsilon=1e-6, use_fast_variance=False)

    def ours(x, scale, bias):
        options = {"activation": getattr(ops, activation)} if activation else {}
        return ops.group_norm(x, scale, bias, groups=3, epsilon=1e-6, dtype="float32", **options)

    def theirs(x, scale, bias) -> jax.Array:
        y: jax.Array = oracle.apply({"params": {"scale": scale, "bias": bias}}, x)  # type: ignore
        return jax.nn.swish(y) if activation else y

    def value_and_gradients(f):
        @jax.jit
        def both(*arrays):
            y, pull = jax.vjp(f, *arrays)
            return y, *pull(weight)

        y, x_gradient, *others = both(x, scale, bias)
        return y, x_gradient * std, *others  # Gradients of x grow as 1/std.

    jax.tree.map(
        lambda mine, its: np.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-3),
        value_and_gradients(ours),
        value_and_gradients(theirs),
    )


def test_a_constant_gives_the_bias():
    def loss(x):
        options = {"groups": 2, "epsilon": 1e-6, "dtype": "float32"}
        return jnp.sum(AUTO.group_norm(x, jnp.ones(8), jnp.zeros(8), **options))

    y, gradient = jax.jit(jax.value_and_grad(loss))(jnp.full((1, 4, 4, 8), 1000.1))
    assert y == 0
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("mean", [0.0, 3.0, -100.0])
def test_half_precision_costs_no_more_than_the_rounding_of_the_result(mean):
    rng = np.random.default_rng(0)
    x = jnp.asarray(mean + rng.normal(size=(2, 16, 16, 8)), jnp.bfloat16)
    scale, bias = jnp.asarray(rng.normal(size=(2, 8)), jnp.float32)
    options = {"groups": 2, "epsilon": 1e-6, "dtype": "bfloat16"}
    found = AUTO.group_norm(x, scale, bias, **options)
    assert found.dtype == jnp.bfloat16
    grouped = np.asarray(x, np.float64).reshape(2, 256, 2, 4)
    moments = grouped.mean((1, 3), keepdims=True), grouped.std((1, 3), keepdims=True)
    exact = ((grouped - moments[0]) / moments[1]).reshape(x.shape) * scale + bias
    # Half a unit in the last place is 2⁻⁹; float32 sums of squares lose 1e-7 (mean / std)².
    np.testing.assert_allclose(np.float32(found), exact, rtol=2**-8, atol=5e-3)


@pytest.mark.parametrize("groups", [1, 4, 12])
def test_a_tpus_means_of_groups_are_those_of_sums(groups):
    values = np.random.default_rng(0).normal(size=(3, 1, 1, 12)).astype(np.float32)
    exact = values.astype(np.float64).reshape(3, groups, -1).mean(-1).repeat(12 // groups, 1)
    for form in (_mean_by_product, _mean_by_sums):
        np.testing.assert_allclose(
            form(jnp.asarray(values), groups=groups)[:, 0, 0], exact, atol=1e-6
        )
