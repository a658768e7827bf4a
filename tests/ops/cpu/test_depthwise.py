import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.ops import AUTO, REFERENCE
from ddpm_jax.ops.cpu import depthwise
from tests.ops.cases import CASES
from tests.ops.test_operations import value_and_gradients


# Bands of at most 50 numbers, of which the last is not full.
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.operation == "depthwise_convolution"], ids=str
)
def test_the_size_of_a_band_changes_nothing(case, monkeypatch):
    monkeypatch.setattr(depthwise, "_BAND", 50)
    arrays = case.arrays()
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-5),
        value_and_gradients(AUTO, case, arrays),
        value_and_gradients(REFERENCE, case, arrays),
    )


@pytest.mark.parametrize(("platform", "grouped"), [("cpu", 0), ("cuda", 3), ("tpu", 3)])
def test_it_is_grouped_on_accelerators_only(platform, grouped):
    x, kernel = jnp.ones((2, 8, 8, 24)), jnp.ones((7, 7, 24))

    def with_gradients(x, kernel):
        y, pull = jax.vjp(AUTO.depthwise_convolution, x, kernel)
        return y, pull(y)

    text = jax.jit(with_gradients).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("group_count = 24") == grouped


def test_a_normalisation_does_not_compute_the_convolution_again():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 4)), jnp.float32)
    norm = {"groups": 1, "epsilon": 1e-6, "dtype": "float32"}

    def normalized(x, kernel, shift):
        h = AUTO.depthwise_convolution(x, kernel) + shift
        return AUTO.group_norm(h, jnp.ones(4), jnp.zeros(4), **norm)

    compiled = jax.jit(normalized).lower(x, jnp.ones((7, 7, 4)), x[:, :1, :1]).compile()
    assert 49 <= (compiled.as_text() or "").count(" multiply(") < 2 * 49


def test_it_sums_in_float32():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((1, 6, 6, 4), (7, 7, 4)))

    def with_gradients(ops, x, kernel):
        y, pull = jax.vjp(ops.depthwise_convolution, x, kernel)
        return y, *pull(x)

    found = with_gradients(AUTO, x, kernel)
    exact = with_gradients(REFERENCE, x.astype(jnp.float32), kernel.astype(jnp.float32))
    for rough, fine in zip(found, exact, strict=True):
        assert rough.dtype == jnp.bfloat16
        np.testing.assert_allclose(rough.astype(jnp.float32), fine, rtol=2**-8, atol=1e-6)
