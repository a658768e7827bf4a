"""The paper's U-Net and its training step written plainly, beside ours, by a TPU's compiler.

    python tests/benchmarks/unet_plain.py TARGET [ours|plain|both] [SETTING VALUE …]
    python tests/benchmarks/unet_plain.py v5e both --train.batch_size 128

Plainly: flax.linen's GroupNorm, Conv, Dense and Dropout, optax's clipping and Adam, an average, and
nothing of ours: no gradient of an operation, no guard, no operation's form. Both have as many
parameters and draw as many random numbers. The settings are those of configs/cifar10.py in
bfloat16. A whole network takes two cores many minutes; fewer levels or blocks take less.
"""

import os
import sys
from typing import Any

from ddpm_jax.reports.targets.topology import ENVIRONMENT, devices_of, read_target

os.environ.update(ENVIRONMENT)  # Before JAX starts.

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ddpm_jax import config as configs
from ddpm_jax.cli.arguments import with_rows
from ddpm_jax.cli.flags import read
from ddpm_jax.experiment import build
from ddpm_jax.reports.info import forward_flops
from ddpm_jax.reports.targets.worker import compiled_facts
from ddpm_jax.runtime.mesh import batch_sharding, make_mesh, replicated
from ddpm_jax.runtime.switches import pinned
from ddpm_jax.training.step import jit_train_step, step_layouts

HALF = jnp.bfloat16


class Block(nn.Module):
    channels: int
    dropout: float

    @nn.compact
    def __call__(self, x, condition):
        h = nn.swish(nn.GroupNorm(32, dtype=HALF, name="norm_0")(x))
        h = nn.Conv(self.channels, (3, 3), dtype=HALF, name="conv_0")(h)
        shift = nn.Dense(self.channels, dtype=HALF, name="condition")(nn.swish(condition))
        h = nn.GroupNorm(32, dtype=HALF, name="norm_1")(h + shift[:, None, None])
        h = nn.Dropout(self.dropout, deterministic=False)(nn.swish(h))
        h = nn.Conv(self.channels, (3, 3), dtype=HALF, name="conv_1")(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=HALF, name="shortcut")(x)
        return x + h


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        batch, *_, channels = x.shape
        h = nn.GroupNorm(32, dtype=HALF, name="norm")(x).reshape(batch, -1, channels)
        query, key, value = (
            nn.Dense(channels, dtype=HALF, name=name)(h) for name in ("query", "key", "value")
        )
        weight = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", query, key) / channels**0.5)
        h = jnp.einsum("bqk,bkc->bqc", weight, value)
        return x + nn.Dense(channels, dtype=HALF, name="out")(h).reshape(x.shape)


class PlainUNet(nn.Module):
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    dropout: float

    @nn.compact
    def __call__(self, x, t):
        rates = jnp.exp(-jnp.log(1e4) * jnp.arange(self.channels // 2) / (self.channels // 2 - 1))
        angles = t[:, None] * rates
        time = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        time = nn.Dense(4 * self.channels, dtype=HALF)(time)
        time = nn.Dense(4 * self.channels, dtype=HALF)(nn.swish(time))
        widths = [self.channels * each for each in self.multipliers]

        def stage(h, width, name):
            h = Block(width, self.dropout, name=f"{name}_block")(h, time)
            return Attention(name=f"{name}_attention")(h) if h.shape[1] in self.attention else h

        h = nn.Conv(self.channels, (3, 3), name="conv_in")(x).astype(HALF)
        skips = [h]
        for level, width in enumerate(widths):
            for i in range(self.blocks):
                h = stage(h, width, f"down_{level}_{i}")
                skips.append(h)
            if level < len(widths) - 1:
                h = nn.Conv(width, (3, 3), 2, dtype=HALF, name=f"down_{level}")(h)
                skips.append(h)
        h = Block(widths[-1], self.dropout, name="middle_0_block")(h, time)
        h = Attention(name="middle_attention")(h)
        h = Block(widths[-1], self.dropout, name="middle_1_block")(h, time)
        for level, width in reversed(list(enumerate(widths))):
            for i in range(self.blocks + 1):
                h = stage(jnp.concatenate([h, skips.pop()], -1), width, f"up_{level}_{i}")
            if level:
                h = h.repeat(2, 1).repeat(2, 2)
                h = nn.Conv(width, (3, 3), dtype=HALF, name=f"up_{level}")(h)
        h = nn.swish(nn.GroupNorm(32, name="norm_out")(h.astype(jnp.float32)))
        return nn.Conv(x.shape[-1], (3, 3), name="conv_out")(h)


def plain_step(config, mesh):
    """The plain step as a jitted function and its arguments' shapes."""
    own = config.model
    network = PlainUNet(own.channels, own.multipliers, own.blocks, own.attention, own.dropout)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-4))
    shape = (config.train.batch_size, *config.data.example_shape)

    def first(key):
        keys = {"params": key, "dropout": key}
        params = network.init(keys, jnp.zeros((1, *shape[1:])), jnp.ones(1))["params"]
        return params, params, optimizer.init(params)

    def step(state, pixels, key):
        params, average, moments = state
        keys = jax.random.split(key, 4)
        x = pixels.astype(jnp.float32) / 127.5 - 1
        x = jnp.where(jax.random.bernoulli(keys[0], 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x)
        t = jax.random.randint(keys[1], (len(x),), 1, 1001)
        noise = jax.random.normal(keys[2], x.shape)
        kept = jnp.cumprod(1 - jnp.linspace(1e-4, 0.02, 1000))[t - 1][:, None, None, None]

        def loss(params):
            x_t = jnp.sqrt(kept) * x + jnp.sqrt(1 - kept) * noise
            rngs = {"dropout": keys[3]}
            found: Any = network.apply({"params": params}, x_t, t.astype(jnp.float32), rngs=rngs)
            return jnp.mean(jnp.square(found - noise))

        value, grads = jax.value_and_grad(loss)(params)
        with jax.named_scope("optimizer"):
            updates, moments = optimizer.update(grads, moments, params)
            params = optax.apply_updates(params, updates)
        with jax.named_scope("averages"):
            average = jax.tree.map(lambda old, new: new + 0.9999 * (old - new), average, params)
        return (params, average, moments), value

    whole, spread = replicated(mesh), batch_sharding(mesh)
    jitted = jax.jit(
        step,
        in_shardings=(whole, spread, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    state = jax.eval_shape(first, key)
    return jitted, (state, jax.ShapeDtypeStruct(shape, jnp.uint8), key)


@pinned()
def compare(target, which, config):
    mesh = make_mesh(1, devices_of(target))
    experiment = build(config, devices=mesh.size)
    images = config.train.batch_size // mesh.size
    jitted, shapes = plain_step(config, mesh)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes[0][0]))
    ours = sum(leaf.size for leaf in jax.tree.leaves(experiment.param_shapes))
    assert count == ours, (count, ours)
    lower = {
        "ours": lambda: jit_train_step(experiment, mesh).lower(*step_layouts(experiment, mesh)),
        "plain": lambda: jitted.lower(*shapes),
    }
    flops = 3 * (forward_flops(experiment) or 0) * images
    for name in ("ours", "plain") if which == "both" else (which,):
        more = {"params": experiment.param_shapes, "images": images, "flops": flops}
        found = compiled_facts(lower[name], target, name, print, **more)
        print(name, {key: value for key, value in found.items() if key != "exchanges"}, flush=True)


if __name__ == "__main__":
    start = configs.load_file("configs/cifar10.py")
    given = read("unet_plain.py", sys.argv[3:], with_rows(configs.settings(start)), "")
    asked = configs.override(start, {"model.dtype": "bfloat16", **given})
    compare(read_target(sys.argv[1]), sys.argv[2], asked)
