import jax
import jax.numpy as jnp

from ddpm_jax.config import Config, UNetConfig
from ddpm_jax.experiment import build
from ddpm_jax.reports.info import forward_flops
from ddpm_jax.typing import Conditioning


def test_flops_are_those_of_the_network_as_it_is_defined(monkeypatch):
    # Wide enough for Winograd's algorithm, which has fewer.
    model = UNetConfig(channels=48, multipliers=(1,), blocks=1, attention=())
    monkeypatch.setenv("DDPM_JAX_OPS", "reference")
    counted = forward_flops(build(Config(model=model)))
    monkeypatch.setenv("DDPM_JAX_OPS", "auto")
    experiment = build(Config(model=model))
    assert counted == forward_flops(experiment)

    params = jax.eval_shape(experiment.init_params, jax.random.key(0))
    x_t, t = jnp.zeros((1, 32, 32, 3)), jnp.ones((1,), jnp.int32)
    traced = jax.jit(
        lambda params: experiment.apply(params, x_t, t, Conditioning(), train=False)
    ).trace(params)
    flops = {
        platform: (traced.lower(lowering_platforms=(platform,)).cost_analysis() or {})["flops"]
        for platform in ("cpu", "cuda")
    }
    assert counted is not None
    assert 0.97 < flops["cuda"] / counted < 1.03
    assert flops["cpu"] < 0.9 * counted
