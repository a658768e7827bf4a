from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.models.layers import Conv, downsample_mean
from ddpm_jax.models.settings import divisor as divisor_of
from ddpm_jax.models.unet import ResidualBlock, UNet, UNetConfig
from ddpm_jax.ops import AUTO, Operations

CIFAR = {"channels": 128, "multipliers": (1, 2, 2, 2)}
SMALL = {"channels": 64, "multipliers": (1, 2, 2)}
LSUN = {"channels": 128, "multipliers": (1, 1, 2, 2, 4, 4)}


def abstract_params(shape, **fields):
    model = UNet(UNetConfig(**fields), out_channels=shape[-1])
    x_t = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    init = lambda x_t, t: model.init(jax.random.key(0), x_t, t, train=False)  # noqa: E731
    return jax.eval_shape(init, x_t, t)["params"]


def sizes(params):
    """Counts the parameters of each direct child, such as `down_0_1_block`."""
    return {name: sum(p.size for p in jax.tree.leaves(params[name])) for name in params}


@pytest.mark.parametrize(
    ("fields", "side", "count"),
    [(CIFAR, 32, 35_746_307), (SMALL, 32, 6_472_195), (LSUN, 256, 113_673_219)],
)
def test_parameter_counts_are_the_published_ones(fields, side, count):
    assert sum(sizes(abstract_params((side, side, 3), **fields)).values()) == count


def test_each_level_of_the_cifar_network_has_the_papers_layers():
    def conv(a, b, side=3):
        return side * side * a * b + b

    def residual(a, b):
        shortcut = conv(a, b, 1) if a != b else 0
        return 2 * a + conv(a, b) + conv(512, b, 1) + 2 * b + conv(b, b) + shortcut

    attention = 2 * 256 + 4 * conv(256, 256, 1)
    expected = {
        "condition": conv(128, 512, 1) + conv(512, 512, 1),
        "conv_in": conv(3, 128),
        "down_0": 2 * residual(128, 128) + conv(128, 128),
        "down_1": residual(128, 256) + residual(256, 256) + 2 * attention + conv(256, 256),
        "down_2": 2 * residual(256, 256) + conv(256, 256),
        "down_3": 2 * residual(256, 256),
        "middle": 2 * residual(256, 256) + attention,
        "up_3": 3 * residual(256 + 256, 256) + conv(256, 256),
        "up_2": 3 * residual(256 + 256, 256) + conv(256, 256),
        "up_1": 2 * residual(256 + 256, 256)
        + residual(256 + 128, 256)
        + 3 * attention
        + conv(256, 256),
        "up_0": residual(256 + 128, 128) + 2 * residual(128 + 128, 128),
        "norm_out": 2 * 128,
        "conv_out": conv(128, 3),
    }
    counted = Counter()
    for name, size in sizes(abstract_params((32, 32, 3), **CIFAR)).items():
        place = name.split("_")
        keep = 1 if place[0] in ("middle", "condition") else 2
        counted["_".join(place[:keep])] += size
    assert counted == expected


def attention_places(shape, **fields):
    return {
        name.removesuffix("_attention")
        for name in abstract_params(shape, **fields)
        if name.endswith("_attention")
    }


def test_attention_is_where_the_longer_side_is_listed():
    fields = {"channels": 8, "multipliers": (1, 2, 2), "blocks": 1, "attention": (16, 8)}
    expected = {"down_1_0", "down_2_0", "middle", "up_1_0", "up_1_1", "up_2_0", "up_2_1"}
    assert attention_places((32, 32, 3), **fields) == expected
    assert attention_places((12, 32, 3), **fields) == expected
    assert attention_places((32, 12, 3), **fields) == expected
    assert attention_places((40, 32, 3), **fields) == {"middle"}


@pytest.mark.parametrize(("multipliers", "divisor"), [((1,), 1), ((1, 2), 2), ((1, 2, 2, 2), 8)])
def test_divisor_is_the_smallest_side_that_works(multipliers, divisor):
    assert divisor_of(multipliers) == divisor
    abstract_params((divisor, 3 * divisor, 1), channels=8, multipliers=multipliers)


def test_other_sides_are_refused_with_the_nearest_that_work():
    with pytest.raises(
        ValueError, match="8 divides, not height x width = 28x3: the nearest are 24x8 and 32x8"
    ):
        abstract_params((28, 3, 1), channels=8, multipliers=(1, 1, 1, 1))


@pytest.mark.parametrize("channels", [8, 12])
def test_residual_block_is_its_layers_in_order(channels, random_params):
    module = ResidualBlock(channels, 0.0, "float32", AUTO)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 8)), jnp.float32)
    condition = jnp.asarray(rng.normal(size=(2, 16)), jnp.float32)
    params = random_params(module, x, condition)
    parts = params["params"]

    def norm(name, x) -> jax.Array:
        oracle = nn.GroupNorm(num_groups=x.shape[-1] // 2, epsilon=1e-6)
        return jax.jit(oracle.apply)({"params": parts[name]}, x)

    def conv(name, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        kernel = parts[name]["kernel"]
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return y + parts[name]["bias"]

    def linear(name, x):
        return x @ parts[name]["kernel"] + parts[name]["bias"]

    @jax.jit
    def expected():
        h = conv("conv_0", jax.nn.silu(norm("norm_0", x)))
        h += linear("condition", jax.nn.silu(condition))[:, None, None]
        h = conv("conv_1", jax.nn.silu(norm("norm_1", h)))
        return h + (x if channels == 8 else linear("shortcut", x))

    np.testing.assert_allclose(jax.jit(module.apply)(params, x, condition), expected(), atol=1e-4)


def test_forms_are_told_where_a_blocks_input_and_skip_are_joined():
    told = []

    class Telling(Operations):
        def group_norm(self, x, *others, joints=(), **options):
            told.append((x.shape[-1], joints))
            return AUTO.group_norm(x, *others, joints=joints, **options)

    module, condition = ResidualBlock(8, 0.0, "float32", Telling()), jnp.ones((1, 4))
    x, skip = jnp.ones((1, 4, 4, 6)), jnp.ones((1, 4, 4, 10))
    jax.eval_shape(module.init, jax.random.key(0), x, condition, skip)
    assert told == [(16, (6,)), (8, ())]


def test_blocks_start_as_their_shortcut():
    module, x = ResidualBlock(8, 0.0, "float32", AUTO), jnp.ones((1, 2, 2, 8)) * jnp.arange(8.0)
    y, _ = module.init_with_output(jax.random.key(0), x, jnp.ones((1, 4)))
    np.testing.assert_array_equal(np.asarray(y), x)


# What the other options compute is compared with the projects that have them, in tests/weights.


def test_other_options_change_the_parameters_as_published():
    plain = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}

    def counted(**fields):
        return sizes(abstract_params((8, 8, 3), **plain, **fields))

    usual = counted()
    assert counted(head_channels=4, norm_groups=2, time_scale=0.5) == usual
    assert counted(downsampling="symmetric", time_embedding="openai") == usual
    assert usual.keys() - counted(middle_attention=False).keys() == {"middle_attention"}
    # A block scales and shifts with twice the numbers of its condition.
    for name, size in counted(scale_shift=True).items():
        width = 8 if name.startswith(("down_0", "up_0")) else 16
        assert size - usual[name] == (33 * width if name.endswith("block") else 0)
    residual = counted(resampling="residual")
    assert residual["down_0"] == 2 * (9 * 8 * 8 + 8) + 4 * 8 + 33 * 8
    assert residual["up_1"] == 2 * (9 * 16 * 16 + 16) + 4 * 16 + 33 * 16


def test_a_symmetric_convolution_is_padded_at_both_ends():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 6, 1)), jnp.float32)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    params = {"params": {"kernel": kernel, "bias": jnp.zeros(1)}}
    y = Conv(1, stride=2, symmetric=True).apply(params, x)
    np.testing.assert_array_equal(y[0, 1:, 1:, 0], x[0, 1:-2:2, 1:-2:2, 0])  # type: ignore
    np.testing.assert_array_equal(y[0, 0, :, 0], 0)  # type: ignore
    far = Conv(1, stride=2).apply(params, x)
    np.testing.assert_array_equal(far[0, ..., 0], x[0, ::2, ::2, 0])  # type: ignore


def test_a_mean_of_blocks_is_that_of_their_pixels():
    x = np.arange(32.0).reshape(1, 4, 4, 2)
    np.testing.assert_array_equal(
        downsample_mean(jnp.asarray(x))[0, 1, 0], x[0, 2:, :2].mean((0, 1))
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"head_channels": 24}, "model.head_channels is 24; it must be a divisor of each level"),
        ({"head_channels": 32, "heads": 2}, "model.heads is 2; it must be 1 beside"),
        ({"norm_groups": 0}, "model.norm_groups is 0"),
        ({"norm_epsilon": 0.0}, "model.norm_epsilon is 0.0"),
        ({"time_scale": 0.0}, "model.time_scale is 0.0"),
    ],
)
def test_impossible_options_are_refused(fields, says):
    with pytest.raises(UserError, match=says):
        UNetConfig(**fields)
