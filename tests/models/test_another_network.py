"""A network of a kind that the package has not: an image beside x_t, and two outputs a channel.

The contract carries both, and a new network is its file and one row.
"""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.models import MODELS, make_network, settings_of
from ddpm_jax.models.conditioning import require_taken
from ddpm_jax.models.layers import Conv
from ddpm_jax.models.settings import NetworkConfig
from ddpm_jax.ops import AUTO, Operations
from ddpm_jax.typing import Conditioning


@dataclass(frozen=True, kw_only=True)
class BesideConfig(NetworkConfig):
    kind: ClassVar[str] = "beside"
    width: int = 4


class Beside(nn.Module):
    config: BesideConfig
    out_channels: int
    ops: Operations = AUTO
    fractional_times: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x_t, t, conditioning, *, train):
        require_taken(conditioning, ("image", "image_noise"), num_classes=self.config.num_classes)
        noise = jnp.broadcast_to(conditioning.image_noise, (len(x_t),))[:, None, None, None]
        h = jnp.concatenate([x_t, conditioning.image + 0.01 * noise], axis=-1)
        h = self.ops.swish(Conv(self.config.width, ops=self.ops, name="in")(h))
        return Conv(self.out_channels, ops=self.ops, name="out")(h)


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setitem(MODELS, "beside", Beside)
    assert settings_of(MODELS["beside"]) is BesideConfig
    return make_network(BesideConfig(), out_channels=2 * 3, timesteps=10)


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
    with pytest.raises(ValueError, match="labels were given to a network without classes"):
        network.apply(params, x_t, t, given._replace(labels=jnp.arange(4)), train=False)
