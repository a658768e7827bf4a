import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models.layers import (
    GroupNorm,
    SelfAttention,
    attend,
    conv3x3,
    convolution,
    group_count,
    kernel_init,
    swish,
    timestep_embedding,
    upsample_nearest,
)


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def apply(module, params, x) -> jax.Array:
    return jax.jit(module.apply)(params, x)


@pytest.mark.parametrize("dim", [4, 10, 11])
def test_timestep_embedding_is_its_closed_form(dim):
    t = np.array([0, 1, 17, 999])
    half = dim // 2
    frequency = 10_000.0 ** (-np.arange(half) / (half - 1))
    angle = t[:, None] * frequency
    embedding = timestep_embedding(jnp.array(t), dim)
    assert embedding.dtype == jnp.float32
    # Where t is 999, float32 angles are known to 999 * 2^-23.
    np.testing.assert_allclose(embedding[:, :half], np.sin(angle), atol=3e-4)
    np.testing.assert_allclose(embedding[:, half : 2 * half], np.cos(angle), atol=3e-4)
    assert embedding.shape == (4, dim)
    assert not embedding[:, 2 * half :].any()
    np.testing.assert_array_equal(timestep_embedding(jnp.array(17), dim), embedding[2:3])


def test_timestep_embedding_needs_two_frequencies():
    with pytest.raises(ValueError, match="at least 4"):
        timestep_embedding(jnp.array(1), 3)


def test_groups_divide_and_hold_two_channels():
    for channels in range(1, 300):
        count = group_count(channels)
        assert channels % count == 0
        assert 1 <= count <= 32
        assert channels == 1 or channels // count >= 2
        assert count == 32 or channels % 32 or channels == 32


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (100.0, 1.0), (-3.0, 1e-2)])
@pytest.mark.parametrize(("shape", "activation"), [((2, 6, 4, 24), swish), ((3, 12), None)])
def test_group_norm_equals_a_two_pass_one_with_its_gradients(shape, activation, mean, std):
    channels = shape[-1]
    x = mean + std * normal(0, shape) * jnp.linspace(0.5, 2.0, channels)
    weight = normal(1, shape)
    params = {"params": {"scale": normal(2, (channels,)), "bias": normal(3, (channels,))}}
    oracle = nn.GroupNorm(num_groups=3, epsilon=1e-6, use_fast_variance=False)

    def value_and_gradients(module, then=lambda y: y):
        def loss(params, x):
            y = then(module.apply(params, x))
            return jnp.sum(weight * y), y

        (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
            params, x
        )
        # Gradients of x grow as 1/std.
        return y, gradients[0], gradients[1] * std

    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3),
        value_and_gradients(GroupNorm(groups=3, activation=activation)),
        value_and_gradients(oracle, jax.nn.swish if activation else lambda y: y),
    )


def test_swish_and_its_slope_are_those_of_the_sigmoid():
    x = jnp.concatenate([jnp.linspace(-30.0, 30.0, 601), jnp.array([-1e4, 1e4])])
    np.testing.assert_allclose(swish(x), jax.nn.swish(x), rtol=1e-6, atol=1e-7)
    ours, theirs = (jax.vmap(jax.grad(f))(x) for f in (swish, jax.nn.swish))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_group_norm_of_a_constant_is_its_bias():
    module = GroupNorm(groups=2)
    x = jnp.full((1, 4, 4, 8), 1000.1)
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    y, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(apply(module, params, x))))(x)
    np.testing.assert_array_equal(y, 0.0)
    assert jnp.isfinite(gradient).all()


def test_group_norm_takes_half_precision_but_keeps_float32_statistics():
    x = (100 + normal(0, (2, 8, 8, 8))).astype(jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    half = apply(GroupNorm(groups=2, dtype="bfloat16"), params, x)
    exact = apply(GroupNorm(groups=2), params, x)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16))


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


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_attending_has_the_gradients_of_the_softmax(shift):
    # Products of 30² would overflow the exponential, were their largest not taken off.
    query, key = (normal(seed, (2, 5, 3, 4)) + shift for seed in (0, 1))
    value, weight = normal(2, (2, 5, 3, 4)), normal(3, (2, 5, 3, 4))

    def naive(query, key, value):
        products = jnp.einsum("bqnc,bknc->bnqk", query, key) / 2
        return jnp.einsum("bnqk,bknc->bqnc", jax.nn.softmax(products, axis=-1), value)

    def all_of(f):
        y, pull = jax.vjp(f, query, key, value)
        return y, *pull(weight)

    # A product of 30² is known to 2e-4, and the gradients grow as query and key do.
    for ours, theirs in zip(jax.jit(all_of, static_argnums=0)(attend), all_of(naive), strict=True):
        assert jnp.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5 * (1 + shift**2 / 10))


def test_attending_keeps_half_precision_and_sums_in_float32():
    query, key, value, g = (normal(seed, (1, 64, 2, 8)) for seed in range(4))
    half = [x.astype(jnp.bfloat16) for x in (query, key, value, g)]

    def all_of(query, key, value, g):
        y, pull = jax.vjp(attend, query, key, value)
        return y, *pull(g)

    exact = jax.jit(all_of)(*(x.astype(jnp.float32) for x in half))
    for rough, fine in zip(jax.jit(all_of)(*half), exact, strict=True):
        assert rough.dtype == jnp.bfloat16
        scale = float(jnp.abs(fine).max())
        np.testing.assert_allclose(rough.astype(jnp.float32), fine, atol=0.02 * scale)


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


@pytest.fixture(params=[1, 8])
def devices(request, monkeypatch):
    """A convolution's gradients are computed in a branch where there is one device."""
    monkeypatch.setattr(jax, "device_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize("devices", [1], indirect=True)
def test_a_convolution_with_a_broken_kernel_has_no_gradient_but_a_whole_one_has_xlas(devices):
    x, g = normal(0, (2, 6, 6, 3)), normal(1, (2, 6, 6, 4))
    module = conv3x3(4, dtype=jnp.float32, name="conv")
    kernel, bias = normal(2, (3, 3, 3, 4)), jnp.zeros(4)

    def gradient(kernel):
        params = {"params": {"kernel": kernel, "bias": bias}}
        return jax.grad(lambda x, p: jnp.sum(g * apply(module, p, x)), argnums=(0, 1))(x, params)

    def plain(kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return jnp.sum(g * y)

    of_kernel = jax.jit(gradient)(kernel)[1]["params"]["kernel"]
    np.testing.assert_allclose(of_kernel, jax.jit(jax.grad(plain))(kernel), rtol=1e-4, atol=1e-4)
    broken = jax.jit(gradient)(kernel.at[0, 0, 0, 0].set(jnp.nan))[1]["params"]["kernel"]
    assert jnp.isnan(broken).all()


NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((0, 1), (2, 0))])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("sides", [(3, 3), (2, 2), (1, 4)])
def test_a_convolutions_gradients_are_xlas(devices, sides, strides, padding):
    x, kernel = normal(0, (2, 7, 6, 3)), normal(1, (*sides, 3, 4))

    def gradients(convolve):
        def both(x, kernel):
            y, pull = jax.vjp(convolve, x, kernel)
            return y, pull(jnp.cos(y))

        return jax.jit(both)(x, kernel)

    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4),
        gradients(lambda x, k: convolution(x, k, strides, padding, dimension_numbers=NHWC)),
        gradients(
            lambda x, k: jax.lax.conv_general_dilated(
                x, k, strides, padding, dimension_numbers=NHWC
            )
        ),
    )


def test_a_convolutions_gradients_in_half_precision_keep_its_dtype_and_nearly_agree(devices):
    arrays = normal(0, (2, 7, 6, 3)), normal(1, (3, 3, 3, 4))

    def with_gradients(*arrays):
        y, pull = jax.vjp(
            lambda x, k: convolution(x, k, (1, 1), "SAME", dimension_numbers=NHWC), *arrays
        )
        return y, *pull(jnp.ones_like(y))

    found = with_gradients(*(array.astype(jnp.bfloat16) for array in arrays))
    for rough, fine in zip(found, with_gradients(*arrays), strict=True):
        assert rough.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            rough.astype(jnp.float32), fine, atol=0.02 * float(jnp.abs(fine).max())
        )


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_inside_a_loop_a_convolution_and_its_gradients_have_the_form_that_is_fast(devices, strides):
    images, kernel = jnp.ones((4, 2, 6, 6, 3)), normal(0, (3, 3, 3, 3))

    def loss(kernel, x):
        y = jnp.tanh(convolution(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC))
        return jnp.sum(convolution(y, kernel, strides, "SAME", dimension_numbers=NHWC) ** 2)

    def accumulated(kernel, images):
        def add(total, x):
            return total + jax.grad(loss)(kernel, x), None

        return jax.lax.scan(add, jnp.zeros_like(kernel), images)[0]

    text = jax.jit(accumulated).lower(kernel, images).compile().as_text() or ""
    forms = re.findall(r" convolution\(.*dim_labels=(\S+?)[, ]", text)
    assert forms == ["b01f_01io->b01f"] * 5  # Two forward, two to the kernel, one to y.


@pytest.mark.parametrize("options", [{"rhs_dilation": (2, 1)}, {"feature_group_count": 3}])
def test_a_convolution_refuses_what_its_gradients_do_not_know(options):
    x, kernel = normal(0, (2, 7, 6, 3)), normal(1, (3, 3, 3, 3))
    with pytest.raises(ValueError, match="neither dilation nor groups"):
        convolution(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, **options)


def test_strided_convolution_pads_the_far_end_only():
    x = normal(0, (1, 4, 4, 1))
    params = {"params": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}
    y = apply(conv3x3(1, dtype="float32", name="conv", stride=2), params, x)
    pixels = np.asarray(x)[0, :, :, 0]
    windows = [[pixels[i : i + 3, j : j + 3].sum() for j in (0, 2)] for i in (0, 2)]
    np.testing.assert_allclose(y[0, :, :, 0], windows, atol=1e-6)


def test_kernels_start_uniform_with_the_variance_of_the_average_fan():
    kernel = np.asarray(kernel_init(jax.random.key(0), (3, 3, 48, 16)))
    limit = (3 / (9 * (48 + 16) / 2)) ** 0.5
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(np.std(kernel), limit / 3**0.5, rtol=0.03)
