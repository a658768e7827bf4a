import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models.small_unet import SmallUNet, SmallUNetConfig, pad_to_multiple

T = jnp.array([3])


def abstract(model, shape):
    x_t = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.eval_shape(
        lambda x_t: model.init(jax.random.key(0), x_t, T, train=False)["params"], x_t
    )


def test_its_parameters_are_the_documents_layer_by_layer():
    params = abstract(SmallUNet(SmallUNetConfig(), out_channels=3), (16, 16, 3))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in params}

    def conv(a, b, side=3):
        return side * side * a * b + b

    def mlp(b):
        return conv(16, b, 1) + conv(b, b, 1)

    expected = {"conv_in": conv(3, 8), "conv_in_norm": 16, "conv_out": conv(8, 3)}
    for level, (a, b) in enumerate([(8, 16), (16, 32), (32, 64)]):
        expected |= {f"down_{level}_time": mlp(a), f"up_{level}_time": mlp(2 * b)}
        layers = {"down_0": (a, b), "down_1": (b, b), "up_0": (2 * b, b), "up_1": (b, a)}
        for name, (before, after) in layers.items():
            way, i = name.split("_")
            expected[f"{way}_{level}_{i}"] = conv(before, after)
            expected[f"{way}_{level}_{i}_norm"] = 2 * after
        for way in ("down", "up"):
            expected |= {f"{way}_{level}": conv(b, b, 4), f"{way}_{level}_norm": 2 * b}
    assert sizes == expected
    assert sum(sizes.values()) == 395_763


@pytest.mark.parametrize("shape", [(13, 9, 3), (8, 4, 1), (1, 1, 3)])
def test_sides_are_mirrored_outwards_to_what_the_levels_divide(shape):
    x = jax.random.normal(jax.random.key(0), (1, *shape))
    fill = [(0, -side % 4) for side in shape[:2]]
    np.testing.assert_array_equal(
        pad_to_multiple(x, 4), np.pad(x, [(0, 0), *fill, (0, 0)], "symmetric")
    )


def test_any_size_is_padded_and_cropped_back(random_params):
    model = SmallUNet(SmallUNetConfig(channels=(4, 4, 4), time_dim=4, groups=2), out_channels=3)
    x_t = jax.random.normal(jax.random.key(0), (1, 13, 9, 3))
    params = random_params(model, x_t, T, train=False)
    network = jax.jit(lambda x_t: model.apply(params, x_t, T, train=False))
    y = network(x_t)
    assert y.shape == x_t.shape
    np.testing.assert_allclose(y, network(pad_to_multiple(x_t, 4))[:, :13, :9], atol=1e-5)
