import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ddpm_jax.models.linear_attention import LinearAttention

from ddpm_jax.models import linear_attention
from ddpm_jax.runtime.mesh import batch_sharding, make_mesh, replicated

HEADS, CHANNELS = 2, 3


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def norm(parts, name, h, epsilon) -> jax.Array:
    found: Any = nn.GroupNorm(1, epsilon=epsilon).apply({"params": parts[name]}, h)
    return found


def in_full(params, x) -> jax.Array:
    """The weight that pixel p gives pixel r, a product of two softmaxes, and with it their mean."""
    batch, height, width, channels = x.shape
    parts = params["params"]
    h = norm(parts, "norm", x, 1e-6).reshape(batch, height * width, channels)
    q, k, v = (
        (h @ parts[name]["kernel"] + parts[name].get("bias", 0.0)).reshape(
            batch, height * width, HEADS, CHANNELS
        )
        for name in ("query", "key", "value")
    )
    weight = jnp.einsum("bphc,brhc->bhpr", jax.nn.softmax(q, axis=3), jax.nn.softmax(k, axis=1))
    mixed = jnp.einsum("bhpr,brhc->bphc", weight, v) / CHANNELS**0.5
    h = mixed.reshape(batch, height, width, -1) @ parts["out"]["kernel"] + parts["out"]["bias"]
    return x + norm(parts, "norm_out", h, 1e-5)


def value_and_gradients(apply, params, x, g):
    def both(params, x):
        y, pull = jax.vjp(apply, params, x)
        return y, pull(g)

    return jax.jit(both)(params, x)


# Images worked on one, two and all four at a time: an image has 12 pixels and 6 features.
@pytest.mark.parametrize("group", [1, 12 * 6 * 3, 2**19])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_attention_in_full_with_its_gradients(bias, group, random_params, monkeypatch):
    monkeypatch.setattr(linear_attention, "_GROUP", group)
    module = LinearAttention(heads=HEADS, head_channels=CHANNELS, bias=bias)
    x, g = normal(0, (4, 3, 4, 8)), normal(1, (4, 3, 4, 8))
    params = random_params(module, x)
    assert ("bias" in params["params"]["query"]) == bias
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-5),
        value_and_gradients(module.apply, params, x, g),
        value_and_gradients(in_full, params, x, g),
    )


def test_large_keys_do_not_overflow(random_params):
    module = LinearAttention(heads=HEADS, head_channels=CHANNELS)
    x = normal(0, (1, 3, 4, 8))
    params = random_params(module, x)
    params["params"]["key"]["kernel"] *= 300
    y, (of_params, of_x) = value_and_gradients(module.apply, params, x, x)
    np.testing.assert_allclose(y, jax.jit(in_full)(params, x), atol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((of_params, of_x)))


def test_half_precision_keeps_its_dtype_and_nearly_agrees(random_params):
    x, g = normal(0, (2, 3, 4, 8)), normal(1, (2, 3, 4, 8))
    half, whole = (LinearAttention(HEADS, CHANNELS, dtype=it) for it in ("bfloat16", "float32"))
    params = random_params(whole, x)
    narrow = x.astype(jnp.bfloat16), g.astype(jnp.bfloat16)
    y, (of_params, of_x) = value_and_gradients(half.apply, params, *narrow)
    assert y.dtype == of_x.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(of_params)} == {jnp.dtype(jnp.float32)}
    exact = value_and_gradients(whole.apply, params, x, g)
    for rough, fine in zip(*map(jax.tree.leaves, ((y, (of_params, of_x)), exact)), strict=True):
        far = jnp.linalg.norm(rough.astype(jnp.float32) - fine) / (1e-3 + jnp.linalg.norm(fine))
        assert far < 0.03


@pytest.mark.parametrize(("platform", "loops"), [("cpu", 2), ("cuda", 0), ("tpu", 0)])
def test_only_a_cpu_works_on_a_few_images_at_a_time(platform, loops, random_params):
    module, x = LinearAttention(HEADS, CHANNELS), normal(0, (2, 3, 4, 8))
    params = random_params(module, x)

    def step(params, x):
        y, pull = jax.vjp(module.apply, params, x)
        return pull(y)

    text = jax.jit(step).trace(params, x).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.while") == loops


def test_a_batch_that_lies_on_several_devices_is_not_gathered(random_params, monkeypatch):
    monkeypatch.setattr(linear_attention, "_GROUP", 4 * 12 * 6)
    mesh = make_mesh(1, jax.devices()[:2])
    module, x = LinearAttention(HEADS, CHANNELS), normal(0, (16, 3, 4, 8))
    params = random_params(module, x)

    def step(params, x):
        y, pull = jax.vjp(module.apply, params, x)
        return y, pull(y)

    shardings = replicated(mesh), batch_sharding(mesh)
    compiled = jax.jit(step, in_shardings=shardings).lower(params, x).compile()
    text = compiled.as_text() or ""
    assert "while(" in text
    assert "all-reduce" in text
    assert not re.search(r" (all-gather|all-to-all|collective-permute)", text)
