import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models.step_unet import (
    PatchUpsample,
    StepUNet,
    StepUNetConfig,
    max_pool_2x2,
)
from ddpm_jax.typing import Conditioning

X = np.random.default_rng(0).normal(size=(3, 4, 6, 5)).astype("float32")


def test_pooling_is_the_windowed_maximum_and_so_is_its_gradient():
    def pooled(pool):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(pool(x) ** 3)))(X)

    ours, windowed = pooled(max_pool_2x2), pooled(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    assert max_pool_2x2(jnp.asarray(X)).shape == (3, 2, 3, 5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, windowed)


def test_upsampling_is_a_transposed_convolution_and_relu(random_params):
    module = PatchUpsample(7, "float32")
    params = random_params(module, X)
    y = jax.jit(module.apply)(params, X)
    # A transposed convolution is the transpose of the one that undoes its shape.
    kernel = jnp.moveaxis(params["params"]["patch"]["kernel"], 0, 3)

    def down(y):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(y, kernel, (2, 2), "VALID", dimension_numbers=numbers)

    (transposed,) = jax.linear_transpose(down, jnp.zeros_like(y))(X)
    expected = nn.relu(transposed + params["params"]["bias"])
    assert y.shape == (3, 8, 12, 7)
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("num_classes", [0, 10])
def test_layers_are_the_documents(num_classes):
    """Its Keras layers by kernel; the plane of the time is fed here, and makes two channels."""
    expected = {
        "down_0_0": (3, 3, 2, 32),
        "down_0_1": (3, 3, 32, 32),
        "down_1_0": (3, 3, 32, 64),
        "down_1_1": (3, 3, 64, 64),
        "down_2_0": (3, 3, 64, 128),
        "down_2_1": (3, 3, 128, 128),
        "up_1": (128, 2, 2, 64),
        "up_1_0": (3, 3, 128, 64),
        "up_1_1": (3, 3, 64, 64),
        "up_0": (64, 2, 2, 32),
        "up_0_0": (3, 3, 64, 32),
        "out": (32, 1),
        "time": (1, 28 * 28),
    }
    model = StepUNet(StepUNetConfig(num_classes=num_classes), out_channels=1, timesteps=10)
    x_t = jnp.zeros((1, 28, 28, 1))
    init = lambda: model.init(jax.random.key(0), x_t, jnp.array([1]), train=False)  # noqa: E731
    params = jax.eval_shape(init)["params"]
    first = {name for name in expected if name.count("_") == 2 and name.endswith("_0")}
    labels = {f"{name}_label": params.pop(f"{name}_label") for name in first if num_classes}
    for name, table in labels.items():
        assert table["embedding"].shape == (11, expected[name.removesuffix("_label")][-1])
    kernels = {name: layer.get("patch", layer)["kernel"].shape for name, layer in params.items()}
    assert kernels == expected
    for name, layer in params.items():
        width = 784 if name == "time" else expected[name][-1]
        assert layer["bias"].shape == (width,)


def test_the_first_convolution_sees_the_time_and_each_levels_first_the_class(random_params):
    config = StepUNetConfig(channels=2, multipliers=(1, 2), num_classes=3)
    model = StepUNet(config, out_channels=5, timesteps=20)
    x_t, t, labels = jnp.asarray(X), jnp.array([1, 7, 20]), jnp.array([2, 0, 3])
    params = random_params(model, x_t, t, train=False)
    seen, made = {}, {}

    def spy(call, args, kwargs, context):
        seen[context.module.name] = args
        made[context.module.name] = result = call(*args, **kwargs)
        return result

    with nn.intercept_methods(spy):
        model.apply(params, x_t, t, Conditioning(labels), train=False)
    weights, (first,) = params["params"], seen["down_0_0"]
    np.testing.assert_array_equal(first[..., :5], x_t)
    for i in range(3):
        line = t[i] / 20 * weights["time"]["kernel"][0] + weights["time"]["bias"]
        np.testing.assert_allclose(first[i, ..., 5].ravel(), np.maximum(line, 0), atol=1e-6)
    # What the second convolution of a level is given is the first one's, shifted by the class.
    for level in range(2):
        bias = weights[f"down_{level}_0_label"]["embedding"][labels][:, None, None]
        expected = np.maximum(made[f"down_{level}_0"] + bias, 0)
        np.testing.assert_allclose(seen[f"down_{level}_1"][0], expected, atol=1e-6)
    bias = weights["up_0_0_label"]["embedding"][labels][:, None, None]
    np.testing.assert_allclose(seen["out"][0], np.maximum(made["up_0_0"] + bias, 0), atol=1e-6)


def test_other_sides_are_refused_with_the_nearest_that_work():
    x_t = jnp.zeros((1, 30, 28, 1))
    model = StepUNet(StepUNetConfig(), out_channels=1, timesteps=10)
    with pytest.raises(
        ValueError, match="4 divides, not height x width = 30x28: the nearest are 28x28 and 32x28"
    ):
        model.init(jax.random.key(0), x_t, jnp.array([1]), train=False)
