import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.ops import AUTO, REFERENCE
from ddpm_jax.ops.cpu import linear_attention as grouped
from ddpm_jax.ops.linear_attention import Weights
from ddpm_jax.runtime.mesh import batch_sharding, make_mesh, replicated
from tests.ops.cases import CASES
from tests.ops.test_operations import value_and_gradients

CASE = next(case for case in CASES if case.operation == "linear_attention")


def test_it_is_attention_by_a_product_of_two_softmaxes():
    x, weights = CASE.arrays()
    q, k, v = (
        (x @ each.kernel).reshape(4, 12, 2, 3)
        for each in (weights.query, weights.key, weights.value)
    )
    # The weight that pixel p gives pixel r.
    weight = jnp.einsum("bphc,brhc->bhpr", jax.nn.softmax(q, axis=3), jax.nn.softmax(k, axis=1))
    mixed = jnp.einsum("bhpr,brhc->bphc", weight, v) / 3**0.5
    expected = mixed.reshape(4, 12, -1) @ weights.out.kernel + weights.out.bias
    found = REFERENCE.linear_attention(x, weights, heads=2)
    np.testing.assert_allclose(found, expected, atol=2e-5)


# Groups of one, two and all four images: an image has 12 pixels and 6 features.
@pytest.mark.parametrize("group", [1, 12 * 6 * 3, 2**19])
def test_the_size_of_a_group_changes_nothing(group, monkeypatch):
    monkeypatch.setattr(grouped, "_GROUP", group)
    arrays = CASE.arrays()
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4),
        value_and_gradients(AUTO, CASE, arrays),
        value_and_gradients(REFERENCE, CASE, arrays),
    )


def test_large_keys_do_not_overflow():
    x, weights = CASE.arrays()
    large: Weights = weights._replace(key=weights.key._replace(kernel=300 * weights.key.kernel))
    found = value_and_gradients(AUTO, CASE, (x, large))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_a_batch_that_lies_on_several_devices_is_not_gathered(monkeypatch):
    monkeypatch.setattr(grouped, "_GROUP", 4 * 12 * 6)
    mesh = make_mesh(1, jax.devices()[:2])
    x, weights = CASE.arrays()
    x = jnp.concatenate([x] * 4)

    def step(weights, x):
        y, pull = jax.vjp(lambda *arrays: AUTO.linear_attention(*arrays, heads=2), x, weights)
        return y, pull(y)

    shardings = replicated(mesh), batch_sharding(mesh)
    compiled = jax.jit(step, in_shardings=shardings).lower(weights, x).compile()
    text = compiled.as_text() or ""
    assert "while(" in text
    assert "all-reduce" in text
    assert not re.search(r" (all-gather|all-to-all|collective-permute)", text)
