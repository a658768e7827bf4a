"""A network of a kind that the package has not: an image beside x_t, and two outputs a channel.

The contract carries both, and a new network is its file and one row.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import dumps, loads
from ddpm_jax.errors import UserError
from ddpm_jax.models import MODELS, make_network, settings_of
from ddpm_jax.typing import Conditioning
from tests.models.beside import Beside, BesideConfig
from tests.tiny import TINY


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setitem(MODELS, "beside", Beside)
    assert settings_of(MODELS["beside"]) is BesideConfig
    return make_network(BesideConfig(), out_channels=2 * 3, timesteps=10)


def test_a_config_of_another_network_goes_to_json_and_back(network):
    config = dataclasses.replace(
        TINY, model=BesideConfig(width=6), train=dataclasses.replace(TINY.train, label_dropout=0.0)
    )
    assert loads(dumps(config)) == config


def test_an_image_beside_x_t_and_its_noise_reach_a_network(network):
    rng = np.random.default_rng(0)
    x_t, image = jnp.asarray(rng.normal(size=(2, 4, 8, 8, 3)), jnp.float32)
    t, given = jnp.array(3), Conditioning(image=image, image_noise=jnp.arange(4))
    params = network.init(jax.random.key(0), x_t, t, given, train=False)
    y = network.apply(params, x_t, t, given, train=False)
    assert y.shape == (4, 8, 8, 6)
    for other in (given._replace(image=-image), given._replace(image_noise=jnp.arange(4) + 1)):
        changed = network.apply(params, x_t, t, other, train=False)
        assert np.abs(changed - y).max() > 1e-4
    with pytest.raises(UserError, match=r"conditioning\.image is missing: the network takes one"):
        network.apply(params, x_t, t, given._replace(image=None), train=False)
    with pytest.raises(UserError, match="labels were given to a network without classes"):
        network.apply(params, x_t, t, given._replace(labels=jnp.arange(4)), train=False)
