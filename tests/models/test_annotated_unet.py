import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models.annotated_unet import BLOCKS, AnnotatedUNet, AnnotatedUNetConfig
from ddpm_jax.ops import AUTO


def abstract_params(shape, **fields):
    model = AnnotatedUNet(AnnotatedUNetConfig(**fields), out_channels=shape[-1])
    x_t = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    init = lambda x_t, t: model.init(jax.random.key(0), x_t, t, train=False)  # noqa: E731
    return jax.eval_shape(init, x_t, t)["params"]


def size(params):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


FLOWERS = {"attention_bias": True}
PUBLISHED = [
    ((28, 28, 1), {}, 2_996_315),
    ((128, 128, 3), FLOWERS | {"dim": 32, "multipliers": (1, 2, 4, 8)}, 14_733_783),
    ((128, 128, 3), FLOWERS | {"dim": 128, "block": "resnet"}, 32_009_619),
]


@pytest.mark.parametrize(("shape", "fields", "count"), PUBLISHED)
def test_parameter_counts_are_the_published_ones(shape, fields, count):
    assert size(abstract_params(shape, **fields)) == count


@pytest.mark.parametrize("block", BLOCKS)
def test_any_sides_that_the_levels_halve_are_taken(block):
    fields = {"dim": 8, "multipliers": (1, 2, 2), "block": block}
    assert size(abstract_params((4, 12, 2), **fields)) == size(
        abstract_params((16, 8, 2), **fields)
    )
    with pytest.raises(
        ValueError, match="4 divides, not height x width = 6x8: the nearest are 4x8 and 8x8"
    ):
        abstract_params((6, 8, 1), **fields)


def test_only_the_last_block_is_not_told_the_time():
    params = abstract_params((28, 28, 1))
    untold = {name for name in params if "block" in name and "condition" not in params[name]}
    assert untold == {"out_block"}


def conv(parts, x, groups=1) -> jax.Array:
    kernel = parts["kernel"]
    return parts["bias"] + jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None] if groups > 1 else kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def linear(parts, x):
    return x @ parts["kernel"] + parts["bias"]


def norm(parts, x, groups) -> jax.Array:
    oracle = nn.GroupNorm(num_groups=groups, epsilon=0.1)
    return jax.jit(oracle.apply)({"params": parts}, x)  # type: ignore


def gelu(x):
    return x * jax.scipy.stats.norm.cdf(x)


def resnet(parts, x, condition):
    # Sixteen channels in eight groups, and eight in four: none of a single channel.
    groups = 8 if parts["norm_0"]["scale"].size == 16 else 4
    h = nn.silu(norm(parts["norm_0"], conv(parts["conv_0"], x), groups))
    if condition is not None:
        h += linear(parts["condition"], nn.silu(condition))[:, None, None]
    return nn.silu(norm(parts["norm_1"], conv(parts["conv_1"], h), groups))


def convnext(parts, x, condition):
    h = conv(parts["depthwise"], x, groups=x.shape[-1])
    if condition is not None:
        h += linear(parts["condition"], gelu(condition))[:, None, None]
    h = gelu(conv(parts["conv_0"], norm(parts["norm_0"], h, 1)))
    return conv(parts["conv_1"], norm(parts["norm_1"], h, 1))


EXPECTED = {"resnet": resnet, "convnext": convnext}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_its_layers_in_order_beside_its_shortcut(name, told, random_params):
    channels = 16 if told else 8
    module = BLOCKS[name](channels, 0.0, 0.1, "float32", AUTO)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 4, 6, 8)), jnp.float32)
    condition = jnp.asarray(rng.normal(size=(2, 12)), jnp.float32) if told else None
    params = random_params(module, x, condition)
    weight = jnp.asarray(rng.normal(size=(2, 4, 6, channels)), jnp.float32)

    def expected(params, x, condition):
        parts = params["params"]
        kept = linear(parts["shortcut"], x) if told else x
        return kept + EXPECTED[name](parts, x, condition)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(f):
        def loss(params, x, condition):
            y = f(params, x, condition)
            return jnp.mean(weight * y), y

        (_, y), gradients = jax.value_and_grad(loss, argnums=0, has_aux=True)(params, x, condition)
        return y, gradients

    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-4),
        value_and_gradients(module.apply),
        value_and_gradients(expected),
    )
