"""Forms of one operation side by side, by the TPU compiler's estimate; no TPU is needed.

    python tests/benchmarks/tpu_forms.py v5e [case …]

Each case is a small program with its gradient, compiled for one chip: cycles, bytes moved, and
where the cycles go. RESULTS.md has what was found.
"""

import os
import sys
import time
from typing import Any

from ddpm_jax.reports.targets.topology import ENVIRONMENT, devices_of, read_target

os.environ.update(ENVIRONMENT)  # Before JAX starts.

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ddpm_jax.averages import ema_update, warmed_up
from ddpm_jax.models.layers import Dropout, group_count
from ddpm_jax.ops import AUTO, REFERENCE, activations, attention, group_norm, resampling
from ddpm_jax.optimizers import make_optimizer
from ddpm_jax.reports.program import read_program
from ddpm_jax.reports.targets.cycles import estimate
from ddpm_jax.runtime.switches import pinned

BATCH, SIDE, CHANNELS = 128, 32, 128
HALF = jnp.bfloat16
NORM: dict[str, Any] = {"groups": group_count(CHANNELS), "epsilon": 1e-6, "dtype": HALF}


def convolution(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel.astype(HALF), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def normalised(form, swish):
    """Convolution, group normalisation with swish, convolution, and all gradients."""

    def case():
        x = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, CHANNELS), HALF)
        kernel = jax.ShapeDtypeStruct((3, 3, CHANNELS, CHANNELS), jnp.float32)
        each = jax.ShapeDtypeStruct((CHANNELS,), jnp.float32)

        def program(x, g, *params):
            def apply(x, first, second, scale, bias):
                h = convolution(x, first)
                return convolution(form(h, scale, bias, activation=swish, **NORM), second)

            y, pull = jax.vjp(apply, x, *params)
            return y, pull(g)

        return program, (x, x, kernel, kernel, each, each)

    return case


def half_group_norm(x, scale, bias, *, groups, epsilon, dtype, activation):
    """Group normalisation with float32 statistics, and all else in `dtype`, its gradient too."""

    def scaled(x, mean, rstd, scale, bias):
        factor = rstd * scale
        return x * factor.astype(dtype) + (bias - mean * factor).astype(dtype)

    def forward(x, scale, bias):
        mean, variance = group_norm._group_moments(x, groups, ())
        rstd = jax.lax.rsqrt(variance + epsilon)
        return activation(scaled(x, mean, rstd, scale, bias)), (x, mean, rstd, scale, bias)

    def backward(saved, g):
        x, mean, rstd, scale, bias = saved
        (g,) = jax.vjp(activation, scaled(x, mean, rstd, scale, bias))[1](g)
        pixels, count = (1, 2), x[0].size // groups
        sum_g = g.sum(pixels, keepdims=True, dtype=jnp.float32)
        sum_gx = (g.astype(jnp.float32) * x.astype(jnp.float32)).sum(pixels, keepdims=True)
        sum_gh = (sum_gx - mean * sum_g) * rstd

        def group_mean(sums):
            sums = (sums * scale).reshape(*sums.shape[:-1], groups, -1)
            means = jnp.broadcast_to(sums.sum(-1, keepdims=True) / count, sums.shape)
            return means.reshape(mean.shape)

        slope = rstd**2 * group_mean(sum_gh)
        offset = rstd * group_mean(sum_g) - mean * slope
        dx = g * (rstd * scale).astype(dtype) - x * slope.astype(dtype) - offset.astype(dtype)
        return dx.astype(x.dtype), sum_gh.sum((0, 1, 2)), sum_g.sum((0, 1, 2))

    normalize = jax.custom_vjp(lambda x, scale, bias: forward(x, scale, bias)[0])
    normalize.defvjp(forward, backward)
    return normalize(x, scale, bias)


def shifted_group_norm(x, scale, bias, *, dtype, **options):
    """Group normalisation whose sums are shifted by a channel's first row, as float32's are."""
    wide = x.astype(jnp.float32)
    return group_norm.few_passes(wide, scale, bias, dtype=dtype, **options)


def cast_group_norm(x, scale, bias, *, activation, **options):
    """Group normalisation in a few passes, cast before the activation, as plain Flax does."""
    return activation(group_norm.few_passes(x, scale, bias, **options))


def attended(form):
    """Attention of one head over 16×16 pixels of 256 channels, and its gradients, by itself."""

    def case():
        x = jax.ShapeDtypeStruct((BATCH, 256, 1, 256), HALF)

        def program(query, key, value, g):
            y, pull = jax.vjp(form, query, key, value)
            return y, pull(g)

        return program, (x, x, x, x)

    return case


def in_place(form):
    """The same within normalisation and dense layers, as `SelfAttention` has it."""

    def case():
        x = jax.ShapeDtypeStruct((BATCH, 16, 16, 256), HALF)
        kernels = [jax.ShapeDtypeStruct((256, 256), jnp.float32)] * 4
        each = jax.ShapeDtypeStruct((256,), jnp.float32)

        def program(x, g, scale, bias, *kernels):
            def apply(x, scale, bias, *kernels):
                h = group_norm.few_passes(x, scale, bias, **NORM).reshape(BATCH, 256, 256)
                *inner, last = (kernel.astype(HALF) for kernel in kernels)
                h = form(*((h @ kernel)[:, :, None] for kernel in inner))
                return x + (h[:, :, 0] @ last).reshape(x.shape)

            y, pull = jax.vjp(apply, x, scale, bias, *kernels)
            return y, pull(g)

        return program, (x, x, each, each, *kernels)

    return case


def updated(*, guarded, ours):
    """Clipping, Adam and an average of 20 kernels, donated as in training."""

    def case():
        params = [jax.ShapeDtypeStruct((3, 3, 256, 256), jnp.float32)] * 20
        rate = jax.ShapeDtypeStruct((), jnp.float32)
        theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
        optimizer = make_optimizer("adam", clip=1.0) if ours else theirs
        averages = {"ema": warmed_up()}

        def program(state, grads, rate):
            params, ema, opt_state, step = state
            good = jnp.isfinite(optax.tree.norm(grads)) if guarded else True

            def choose(new, old):
                pick = lambda new, old: jnp.where(good, new, old)  # noqa: E731
                return jax.tree.map(pick, new, old) if guarded else new

            options = {"learning_rate": rate, "good": good} if ours else {}
            updates, after = optimizer.update(grads, opt_state, params, **options)
            if not ours:
                updates = jax.tree.map(lambda leaf: -rate * leaf, updates)
            new = choose(optax.apply_updates(params, updates), params)
            moved = choose(ema_update(averages, ema, new, step + 1), ema)
            return new, moved, after, step + 1

        step = jax.ShapeDtypeStruct((), jnp.int32)
        state = (params, {"ema": params}, jax.eval_shape(optimizer.init, params), step)
        return program, (state, params, rate)

    return case


def dropped(form):
    """Convolution, group normalisation with swish, dropout, convolution, and all gradients."""

    def case():
        x = jax.ShapeDtypeStruct((BATCH, SIDE, SIDE, CHANNELS), HALF)
        kernel = jax.ShapeDtypeStruct((3, 3, CHANNELS, CHANNELS), jnp.float32)
        each = jax.ShapeDtypeStruct((CHANNELS,), jnp.float32)
        seed = jax.ShapeDtypeStruct((), jnp.uint32)

        def program(x, g, seed, *params):
            key = jax.random.key(seed, impl="threefry2x32")

            def apply(x, first, second, *affine):
                h = convolution(x, first)
                h = group_norm.few_passes(h, *affine, activation=activations.lean_swish, **NORM)
                return convolution(form(h, key), second)

            y, pull = jax.vjp(apply, x, *params)
            return y, pull(g)

        return program, (x, x, seed, kernel, kernel, each, each)

    return case


def enlarged(form):
    """Convolution of 16×16 pixels, upsampling with a convolution, and all gradients."""

    def case():
        x = jax.ShapeDtypeStruct((BATCH, 16, 16, 256), HALF)
        g = jax.ShapeDtypeStruct((BATCH, 32, 32, 256), HALF)
        kernel = jax.ShapeDtypeStruct((3, 3, 256, 256), jnp.float32)

        def program(x, g, *kernels):
            def apply(x, first, second):
                return form(convolution(x, first), second.astype(HALF))

            y, pull = jax.vjp(apply, x, *kernels)
            return y, pull(g)

        return program, (x, g, kernel, kernel)

    return case


def by_jaxs_gradient(x, kernel):
    return resampling.upsample_reference(x, resampling.repeated_kernel(kernel).astype(x.dtype))


def flax_dropout(x, key):
    return nn.Dropout(0.1, deterministic=False).apply({}, x, rngs={"dropout": key})


def our_dropout(choice):
    return lambda x, key: Dropout(0.1, choice).apply({}, x, rngs={"dropout": key})


CASES = {
    "group_norm: reference": normalised(group_norm.reference, activations.lean_swish),
    "group_norm: few passes, shifted": normalised(shifted_group_norm, activations.lean_swish),
    "group_norm: few passes": normalised(group_norm.few_passes, activations.lean_swish),
    "group_norm: few passes, plain swish": normalised(
        group_norm.few_passes, activations.swish_reference
    ),
    "group_norm: half precision": normalised(half_group_norm, activations.lean_swish),
    "group_norm: cast before swish": normalised(cast_group_norm, activations.lean_swish),
    "attention: reference": attended(attention.reference),
    "attention: short gradient": attended(attention.short_gradient),
    "attention in place: reference": in_place(attention.reference),
    "attention in place: short gradient": in_place(attention.short_gradient),
    "update: ours": updated(guarded=True, ours=True),
    "update: ours, no guard": updated(guarded=False, ours=True),
    "update: optax": updated(guarded=False, ours=False),
    "dropout: flax": dropped(flax_dropout),
    "dropout: drawn again": dropped(our_dropout(REFERENCE)),
    "dropout: stored": dropped(our_dropout(AUTO)),
    "upsampling: reference": enlarged(resampling.upsampled_convolution_reference),
    "upsampling: transposed, JAX's gradient": enlarged(by_jaxs_gradient),
    "upsampling: transposed": enlarged(resampling.upsampled_convolution_transposed),
}


@pinned()
def compiled(name, target):
    """Returns one line about a case."""
    program, shapes = CASES[name]()
    (device,) = devices_of(target)
    place = jax.sharding.SingleDeviceSharding(device)
    shapes = jax.tree.map(
        lambda like: jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=place), shapes
    )
    donated = 0 if name.startswith("update") else ()
    begun = time.process_time()
    made = jax.jit(program, donate_argnums=donated).lower(*shapes).compile()
    took = time.process_time() - begun
    found = estimate(
        read_program(made.as_text() or ""), target.hardware, made.cost_analysis() or {}, 0, 0
    )
    plan: Any = made.memory_analysis()
    where = ", ".join(f"{part} {n:,}" for part, n in found["cycles_by_part"].items())
    return (
        f"{name:<36} {found['cycles']:>11,} cycles, "
        f"{found['compiled_bytes_per_device'] / 1e6:>9,.1f} MB moved, "
        f"{plan.temp_size_in_bytes / 1e6:>7,.1f} MB of temporaries, code "
        f"{plan.generated_code_size_in_bytes / 1e6:,.1f} MB, {took:,.0f} CPU s ({where})"
    )


if __name__ == "__main__":
    chosen = read_target(sys.argv[1])
    wanted = sys.argv[2:]
    for each in CASES:
        if not wanted or any(word in each for word in wanted):
            print(compiled(each, chosen), flush=True)
