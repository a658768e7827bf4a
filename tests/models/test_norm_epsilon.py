import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.models import AnnotatedUNetConfig, SmallUNetConfig, UNetConfig, make_network
from ddpm_jax.models.layers import GroupNorm


@pytest.mark.parametrize(
    ("config", "others"),
    [
        (SmallUNetConfig(norm_epsilon=0.25), set()),
        (AnnotatedUNetConfig(norm_epsilon=0.25, block="resnet"), {("norm_out", 1e-5)}),
        (AnnotatedUNetConfig(norm_epsilon=0.25), {("norm_out", 1e-5)}),
        (UNetConfig(attention=(4,)), None),
        (UNetConfig(attention=(4,), norm_epsilon=0.25, resampling="residual"), set()),
    ],
)
def test_every_normalisation_has_the_epsilon_of_its_document(config, others):
    """PyTorch's 1e-5 where the document is in PyTorch, and 1e-6 in Ho et al.'s network."""
    found = set()

    def look(call, args, kwargs, context):
        if isinstance(context.module, GroupNorm):
            found.add((context.module.name, context.module.epsilon))
        return call(*args, **kwargs)

    network = make_network(config, out_channels=1, timesteps=10)
    with nn.intercept_methods(look):
        x_t = jnp.zeros((1, 8, 8, 1))
        jax.eval_shape(lambda: network.init(jax.random.key(0), x_t, jnp.ones(1, int), train=False))
    expected = {1e-6} if others is None else {0.25}
    assert len(found) > 3
    assert {epsilon for _, epsilon in found - (others or set())} == expected
    assert (others or set()) <= found


def test_the_epsilons_are_the_documents():
    assert SmallUNetConfig().norm_epsilon == AnnotatedUNetConfig().norm_epsilon == 1e-5
