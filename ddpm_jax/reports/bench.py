"""How fast a config runs on this machine: compilation, training, sampling, memory, data."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config
from ddpm_jax.data import open_source, resolve
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError, require
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.reports.hardware import hardware_of
from ddpm_jax.reports.info import count_parameters, forward_flops
from ddpm_jax.runtime.memory import planned_bytes
from ddpm_jax.runtime.mesh import fitting_mesh
from ddpm_jax.runtime.switches import pinned, require_compiling
from ddpm_jax.sampling.cascade import seen_in
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.training.feed import Feed
from ddpm_jax.training.step import (
    batch_layout,
    check_batch,
    draw_state,
    jit_train_step,
    step_inputs,
    step_layouts,
)

_WINDOWS = 5


@pinned()
def bench(
    config: Config, *, steps: int, progress: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """Measures a config on this machine's devices, in five windows of `steps` steps each.

    Times are medians over the windows. Model FLOPs are those of the forward pass as XLA counts them
    before it optimizes; training counts three times as many, since a gradient costs two forward
    passes. Their share is a fraction of the fastest product of square matrices in the model's dtype
    measured here, on as many devices; of hardware in HARDWARE also of the published peak in
    bfloat16. Batches come from the data as in training. If the data are not there, zeros stand in
    for them, and `data` says so. Raises UserError if `steps` is below 1 or the batch can't be split
    over the devices.
    """
    require(steps >= 1, "steps", steps, "at least 1")
    require_compiling()
    config = resolve(config)
    mesh = fitting_mesh(config.mesh.fsdp)
    experiment = build(config, devices=mesh.size)
    check_batch(config, mesh)
    forward = forward_flops(experiment)
    progress("measuring the matrix product")
    peak = product_peak(jnp.dtype(config.model.dtype)) * mesh.size
    training, params = _training(experiment, mesh, steps, progress)
    progress("sampling")
    sampling = _sampling(experiment, mesh, params, steps)
    found = {
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "jax": jax.__version__,
        "parameters": count_parameters(experiment),
        "dtype": config.model.dtype,
        "product_peak_flops": peak,
        **training,
        **sampling,
    }
    if forward is not None:
        trained, drawn = 3 * forward * training["images_per_s"], forward * sampling["calls_per_s"]
        found |= {
            "model_flops_per_image": forward,
            "train_share_of_peak": trained / peak,
            "sample_share_of_peak": drawn * sampling["sample_batch_size"] / peak,
        }
        if published := hardware_of(jax.devices()[0].device_kind):
            found["published_peak_flops"] = published.peak_flops * mesh.size
            found["published_share_of_peak"] = trained / found["published_peak_flops"]
    return found


def product_peak(dtype: Any) -> float:
    """Returns the FLOP/s of the fastest product of two square matrices on one device."""
    best = 0.0
    # An accelerator needs the large ones to be busy; a CPU would take minutes for them.
    for side in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192):
        x = jnp.ones((side, side), dtype)
        product = jax.jit(jnp.matmul)
        jax.block_until_ready(product(x, x))
        for _ in range(_WINDOWS):
            begun = time.perf_counter()
            jax.block_until_ready([product(x, x) for _ in range(4)])
            best = max(best, 4 * 2 * side**3 / (time.perf_counter() - begun))
    return best


def _training(
    experiment: Experiment, mesh: Mesh, steps: int, progress: Callable[[str], None]
) -> tuple[dict[str, Any], Any]:
    config = experiment.config
    progress("compiling the training step")
    cold, _ = _compile(experiment, mesh, cached=False)
    _compile(experiment, mesh, cached=True)  # fills the cache
    warm, compiled = _compile(experiment, mesh, cached=True)
    each, size = config.train.steps_per_dispatch, config.train.batch_size
    state = draw_state(experiment, mesh)
    took, waited = [], []
    with _feed(experiment, mesh) as (feed, origin):
        state, _ = compiled(state, feed(0), step_inputs(experiment, 0))
        jax.block_until_ready(state)
        done = each
        for window in range(_WINDOWS):
            progress(f"training, window {window + 1} of {_WINDOWS}")
            begun, waiting, before = time.perf_counter(), 0.0, done
            while done < before + steps:
                asked = time.perf_counter()
                batch = feed(done)
                waiting += time.perf_counter() - asked
                state, _ = compiled(state, batch, step_inputs(experiment, done))
                done += each
            jax.block_until_ready(state)
            took.append((time.perf_counter() - begun) / (done - before))
            waited.append(waiting / (done - before))
    step = statistics.median(took)
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "batch_size": size,
        "data": origin,
        "compile_cold_s": cold,
        "compile_warm_s": warm,
        "step_ms": 1e3 * step,
        "images_per_s": size / step,
        "data_wait_ms": 1e3 * statistics.median(waited),
        "train_peak_bytes": stats.get("peak_bytes_in_use", planned_bytes(compiled)),
    }, state.ema[config.train.first_average]


def _compile(experiment: Experiment, mesh: Mesh, *, cached: bool) -> tuple[float, Any]:
    """Returns the seconds of tracing and compiling the training step, and the compiled step.

    With `cached`, JAX may take the program from its cache on disk.
    """
    jax.clear_caches()
    enabled = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", enabled and cached)
    try:
        layout = step_layouts(experiment, mesh)
        begun = time.perf_counter()
        compiled = jit_train_step(experiment, mesh).lower(*layout).compile()
        return time.perf_counter() - begun, compiled
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)


@contextmanager
def _feed(experiment: Experiment, mesh: Mesh) -> Iterator[tuple[Callable[[int], Any], str]]:
    """Opens the data of a config and names them; zeros in memory if the data are not there."""
    try:
        source = open_source(experiment.config.data)
    except UserError as error:
        zeros = jax.tree.map(
            lambda like: jax.device_put(np.zeros(like.shape, like.dtype), like.sharding),
            batch_layout(experiment, mesh),
        )
        yield lambda step: zeros, f"none: zeros stand in for it ({error})"
        return
    with Feed(experiment, mesh, source) as feed:
        yield feed, experiment.config.data.kind


def _sampling(experiment: Experiment, mesh: Mesh, params: Any, steps: int) -> dict[str, Any]:
    """Measures chains of `steps` steps, with the sampler and the batch size of the config."""
    T = experiment.config.diffusion.timesteps
    # The sampler of the whole chain, of which these are some steps.
    options = experiment.config.sample.settled(T)
    length = min(steps, T)
    program = SampleProgram(experiment, mesh, dataclasses.replace(options, steps=length))
    given: dict[str, Any] = {"seed": 0}
    if experiment.is_shown:
        shape = experiment.config.data.example_shape
        zeros = ArraySource(np.zeros((1, *shape), np.uint8))
        given |= seen_in(experiment, zeros, options.batch_size)
    program(params, options.batch_size, **given)
    took = []
    for _ in range(_WINDOWS):
        begun = time.perf_counter()
        program(params, options.batch_size, **given)
        took.append(time.perf_counter() - begun)
    step = statistics.median(took) / length
    return {
        "sample_batch_size": options.batch_size,
        "sample_step_ms": 1e3 * step,
        "calls_per_s": program.calls / statistics.median(took),
        "chain_steps": options.steps or T,
        "chain_s_at_that_rate": (options.steps or T) * step,
    }
