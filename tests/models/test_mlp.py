from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Config, DiffusionConfig, MlpConfig, PointsData, SampleConfig
from ddpm_jax.experiment import build
from ddpm_jax.models.mlp import Mlp


def points_config(**settings):
    return Config(
        data=PointsData(),
        model=MlpConfig(**settings),
        diffusion=DiffusionConfig(timesteps=100),
        sample=SampleConfig(clipping="none"),
    )


@pytest.mark.parametrize(
    ("settings", "count"),
    # A moon a class: two rows and one for "no class" in each of the three layers.
    [({}, 72_066), ({"num_classes": 2}, 72_066 + 3 * 3 * 128)],
)
def test_the_tutorials_network_has_the_size_its_code_gives(settings, count):
    shapes = jax.eval_shape(build(points_config(**settings)).init_params, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize("t", [1, 2, 100])
def test_it_is_the_tutorials_formula(random_params, t):
    model = Mlp(MlpConfig(width=8, layers=2), out_channels=2, timesteps=100)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    variables: Any = random_params(model, x, jnp.array(1), train=False)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    h = x
    for layer in range(2):
        gain = params[f"time_{layer}"]["embedding"][t - 1]
        linear = params[f"layer_{layer}"]
        h = np.log1p(np.exp(gain * (h @ linear["kernel"] + linear["bias"])))
    expected = h @ params["out"]["kernel"] + params["out"]["bias"]
    y: Any = model.apply(variables, x, jnp.full(5, t), train=False)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_tables_start_with_gains_between_0_and_1_and_equal_classes():
    config = MlpConfig(width=16, layers=1, num_classes=3)
    model = Mlp(config, out_channels=2, timesteps=50)
    x = jnp.zeros((1, 2))
    init = jax.jit(lambda: model.init(jax.random.key(0), x, jnp.array(1), train=False)["params"])
    params: Any = init()
    gains = np.asarray(params["time_0"]["embedding"])
    assert gains.shape == (50, 16)
    assert 0 <= gains.min() < 0.02
    assert 0.98 < gains.max() <= 1
    np.testing.assert_allclose(gains.mean(), 0.5, atol=0.05)
    np.testing.assert_array_equal(params["label_0"]["embedding"], np.zeros((4, 16)))


def test_a_time_that_the_table_has_not_is_seen(random_params):
    model = Mlp(MlpConfig(width=8, layers=1), out_channels=2, timesteps=10)
    x = jnp.ones((2, 2))
    params = random_params(model, x, jnp.array(1), train=False)
    y: Any = model.apply(params, x, jnp.array([10, 11]), train=False)
    np.testing.assert_array_equal(np.isfinite(y), [[True, True], [False, False]])
