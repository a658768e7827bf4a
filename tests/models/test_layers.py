from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models.layers import (
    DepthwiseConv,
    Downsample,
    Dropout,
    LinearAttention,
    SelfAttention,
    Upsample,
    group_count,
    kernel_init,
)
from ddpm_jax.ops.resampling import downsample_blocks, upsample_blocks, upsample_nearest


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def apply(module, params, x) -> jax.Array:
    return jax.jit(module.apply)(params, x)


def test_groups_divide_and_hold_two_channels():
    for channels in range(1, 300):
        count = group_count(channels)
        assert channels % count == 0
        assert 1 <= count <= 32
        assert channels == 1 or channels // count >= 2
        assert count == 32 or channels % 32 or channels == 32


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_softmax_of_scaled_products(heads, random_params):
    module = SelfAttention(heads=heads)
    x = normal(0, (2, 3, 4, 8))
    params = random_params(module, x)
    parts = params["params"]

    @jax.jit
    def expected():
        norm = apply(nn.GroupNorm(num_groups=4, epsilon=1e-6), {"params": parts["norm"]}, x)
        q, k, v = (
            (norm.reshape(2, 12, 8) @ parts[name]["kernel"] + parts[name]["bias"]).reshape(
                2, 12, heads, 8 // heads
            )
            for name in ("query", "key", "value")
        )
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (8 / heads) ** 0.5
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits, axis=-1), v)
        return x + mixed.reshape(2, 3, 4, 8) @ parts["out"]["kernel"] + parts["out"]["bias"]

    np.testing.assert_allclose(apply(module, params, x), expected(), atol=1e-5)


def test_attention_starts_as_the_identity():
    x = normal(0, (2, 3, 4, 8))
    y, _ = SelfAttention().init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(np.asarray(y), x)


def test_attention_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 attention heads do not divide 8 channels"):
        SelfAttention(heads=3).init(jax.random.key(0), jnp.zeros((1, 2, 2, 8)))


def test_attention_heads_may_be_wider_than_their_share(random_params):
    module = SelfAttention(heads=3, head_channels=5, bias=False, groups=1)
    x = normal(0, (2, 3, 4, 8))
    params = random_params(module, x)
    parts = params["params"]
    assert {name: set(parts[name]) for name in ("query", "key", "value")} == {
        "query": {"kernel"},
        "key": {"kernel"},
        "value": {"kernel"},
    }

    @jax.jit
    def expected():
        norm = apply(nn.GroupNorm(num_groups=1, epsilon=1e-6), {"params": parts["norm"]}, x)
        q, k, v = (
            (norm.reshape(2, 12, 8) @ parts[name]["kernel"]).reshape(2, 12, 3, 5)
            for name in ("query", "key", "value")
        )
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 5**0.5
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits, axis=-1), v)
        return x + mixed.reshape(2, 3, 4, 15) @ parts["out"]["kernel"] + parts["out"]["bias"]

    np.testing.assert_allclose(apply(module, params, x), expected(), atol=1e-5)


def test_upsampling_repeats_pixels():
    x = normal(0, (2, 3, 4, 5))
    np.testing.assert_array_equal(upsample_nearest(x), np.repeat(np.repeat(x, 2, 1), 2, 2))


def test_kernels_start_uniform_with_the_variance_of_the_average_fan():
    kernel = np.asarray(kernel_init(jax.random.key(0), (3, 3, 48, 16)))
    limit = (3 / (9 * (48 + 16) / 2)) ** 0.5
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(np.std(kernel), limit / 3**0.5, rtol=0.03)


@pytest.mark.parametrize(
    ("kind", "blocks"), [(Downsample, downsample_blocks), (Upsample, upsample_blocks)]
)
def test_the_kernel_of_a_resampling_is_drawn_over_blocks_of_pixels(kind, blocks):
    """The fans of the 2x2 kernel over blocks give its variance, and its numbers."""
    params: Any = kind().init(jax.random.key(0), jnp.zeros((1, 2, 2, 6)))
    kernel = params["params"]["conv"]["kernel"]
    assert kernel.shape == (4, 4, 6, 6)
    limit = (3 / (2 * 2 * (6 + 24) / 2)) ** 0.5
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert blocks(kernel).shape == ((2, 2, 24, 6) if kind is Downsample else (2, 2, 6, 24))


def test_resampling_is_a_4x4_convolution_with_a_bias():
    x, kernel, bias = normal(0, (2, 4, 6, 3)), normal(1, (4, 4, 3, 3)), normal(2, (3,))
    names = ("NHWC", "HWIO", "NHWC")
    down = jax.lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=names)
    found = apply(Downsample(), {"params": {"conv": {"kernel": kernel, "bias": bias}}}, x)
    np.testing.assert_allclose(found, down + bias, atol=1e-4)
    up = jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")
    found = apply(Upsample(), {"params": {"conv": {"kernel": kernel}, "bias": bias}}, x)
    np.testing.assert_allclose(found, up + bias, atol=1e-4)


def test_depthwise_kernels_start_with_the_variance_of_their_own_window():
    params: Any = DepthwiseConv().init(jax.random.key(0), jnp.ones((1, 7, 7, 64)))
    kernel = np.asarray(params["params"]["kernel"])
    assert kernel.shape == (7, 7, 64)
    np.testing.assert_allclose(np.std(kernel), 1 / 7, rtol=0.05)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_attention_is_a_product_of_two_softmaxes_between_normalisations(bias, random_params):
    module = LinearAttention(heads=2, head_channels=3, bias=bias, epsilon=0.1)
    x = normal(0, (2, 3, 4, 8))
    params = random_params(module, x)
    parts = params["params"]
    assert ("bias" in parts["query"]) == bias

    def norm(name, h, epsilon) -> jax.Array:
        return apply(nn.GroupNorm(1, epsilon=epsilon), {"params": parts[name]}, h)

    h = norm("norm", x, 0.1).reshape(2, 12, 8)
    q, k, v = (
        (h @ parts[name]["kernel"] + parts[name].get("bias", 0.0)).reshape(2, 12, 2, 3)
        for name in ("query", "key", "value")
    )
    weight = jnp.einsum("bphc,brhc->bhpr", jax.nn.softmax(q, axis=3), jax.nn.softmax(k, axis=1))
    mixed = jnp.einsum("bhpr,brhc->bphc", weight, v) / 3**0.5
    h = mixed.reshape(2, 3, 4, -1) @ parts["out"]["kernel"] + parts["out"]["bias"]
    expected = x + norm("norm_out", h, 1e-5)
    np.testing.assert_allclose(apply(module, params, x), expected, atol=2e-5)


def dropped(x: Any, rate: float) -> Any:
    return Dropout(rate).apply({}, x, rngs={"dropout": jax.random.key(1)})


def test_dropout_keeps_its_share_each_pixel_by_itself_and_scales_what_it_keeps():
    shape, rate = (64, 7, 5, 40), 0.3
    y = dropped(jnp.ones(shape), rate)
    kept = y != 0
    share = round(0.7 * 2**16) / 2**16
    np.testing.assert_allclose(y[kept], 1 / share, rtol=1e-6)
    deviation = (share * (1 - share) / kept.size) ** 0.5
    assert abs(kept.mean() - share) < 4 * deviation
    # No axis repeats its mask, and rows of one word are as good as others.
    for axis, side in enumerate(shape):
        for by in range(1, min(side, 8)):
            both = kept & np.roll(kept, by, axis)
            assert abs(both.mean() - share**2) < 8 * deviation, (axis, by)


def test_dropouts_gradient_has_its_mask_and_no_rate_draws_nothing():
    x = normal(0, (2, 3, 4, 5))
    y, pull = jax.vjp(lambda x: dropped(x, 0.5), x)
    (gradient,) = pull(jnp.ones_like(x))
    np.testing.assert_allclose(gradient * x, y)
    assert 0.2 < np.mean(gradient == 0) < 0.8
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x), x)  # type: ignore[arg-type]
    assert dropped(x.astype(jnp.bfloat16), 0.5).dtype == jnp.bfloat16


def test_dropout_of_nearly_everything_has_finite_gradients():
    gradient = jax.grad(lambda x: dropped(x, 1 - 1e-7).sum())(jnp.ones((2, 4, 4, 4)))
    assert np.isfinite(gradient).all()
