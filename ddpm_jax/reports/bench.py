"""How fast a config runs on this machine: compilation, training, sampling, memory, data."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config
from ddpm_jax.data import open_source, resolve
from ddpm_jax.data.batches import Batches
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.reports.info import count_parameters, forward_flops, planned_bytes
from ddpm_jax.runtime.mesh import fitting_mesh, put_batch
from ddpm_jax.sampling.chain import SampleProgram, with_options
from ddpm_jax.training.step import batch_layout, check_batch, jit_init, jit_train_step, state_layout

_WINDOWS = 5


def bench(
    config: Config, *, steps: int, progress: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """Measures a config on this machine's devices; `steps` are those of each of five windows.

    Times are medians of the windows. Model FLOPs are those of the forward pass as XLA counts them
    before it optimizes, three times for training, as a gradient costs two; their share is of the
    best product of square matrices in the model's dtype that was measured here, on as many devices.
    Batches come from the data as in training, or, where it isn't there, from memory; `data` says
    which. Raises UserError if `steps` is below 1 or the batch can't be split over the devices.
    """
    if steps < 1:
        raise UserError(f"--steps is {steps}; it must be at least 1")
    config = resolve(config)
    experiment, mesh = build(config), fitting_mesh(config.mesh.fsdp)
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
    return found


def product_peak(dtype: Any) -> float:
    """Returns the FLOP/s of the fastest product of two square matrices on one device."""
    best = 0.0
    # Up to what an accelerator needs to fill it; a CPU would take minutes for the largest.
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
    _compile(experiment, mesh, cached=True)  # which keeps it
    warm, compiled = _compile(experiment, mesh, cached=True)
    each, size = config.train.steps_per_dispatch, config.train.batch_size
    state = jit_init(experiment, mesh)()
    took, waited = [], []
    with Feed(experiment, mesh) as feed:
        state, _ = compiled(state, feed(0))
        jax.block_until_ready(state)
        done = each
        for window in range(_WINDOWS):
            progress(f"training, window {window + 1} of {_WINDOWS}")
            begun, waiting, before = time.perf_counter(), 0.0, done
            while done < before + steps:
                asked = time.perf_counter()
                batch = feed(done)
                waiting += time.perf_counter() - asked
                state, _ = compiled(state, batch)
                done += each
            jax.block_until_ready(state)
            took.append((time.perf_counter() - begun) / (done - before))
            waited.append(waiting / (done - before))
    step = statistics.median(took)
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "batch_size": size,
        "data": feed.origin,
        "compile_cold_s": cold,
        "compile_warm_s": warm,
        "step_ms": 1e3 * step,
        "images_per_s": size / step,
        "data_wait_ms": 1e3 * statistics.median(waited),
        "train_peak_bytes": stats.get("peak_bytes_in_use", planned_bytes(compiled)),
    }, state.ema


def _compile(experiment: Experiment, mesh: Mesh, *, cached: bool) -> tuple[float, Any]:
    """Seconds from Python to a program for the devices, with or without JAX's kept programs."""
    jax.clear_caches()
    kept = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", kept and cached)
    try:
        layout = state_layout(experiment, mesh), batch_layout(experiment, mesh)
        begun = time.perf_counter()
        compiled = jit_train_step(experiment, mesh).lower(*layout).compile()
        return time.perf_counter() - begun, compiled
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)


class Feed:
    """Calls with a step return its batch on the devices, as training gets it."""

    def __init__(self, experiment: Experiment, mesh: Mesh):
        config = experiment.config
        self._mesh, self._each = mesh, config.train.steps_per_dispatch
        self._layout = batch_layout(experiment, mesh)
        self._batches: Batches | None = None
        try:
            source, self.origin = open_source(config.data), config.data.kind
        except UserError as error:
            self.origin = f"none: zeros stand in for it ({error})"
            return
        size = config.train.batch_size
        self._batches = Batches(source, seed=config.seed, batch_size=size)

    def __call__(self, step: int) -> Any:
        several = self._each > 1
        if self._batches is None:
            return jax.tree.map(
                lambda like: jax.device_put(np.zeros(like.shape, like.dtype), like.sharding),
                self._layout,
            )
        rows = [self._batches(n) for n in range(step, step + self._each)]
        if self._layout.labels is None:
            rows = [row._replace(labels=None) for row in rows]
        batch = jax.tree.map(lambda *x: np.stack(x), *rows) if several else rows[0]
        return put_batch(batch, self._mesh, leading=int(several))

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        if self._batches is not None:
            self._batches.close()


def _sampling(experiment: Experiment, mesh: Mesh, params: Any, steps: int) -> dict[str, Any]:
    """Chains of `steps` steps of the config's own sampler, in one batch of its own size."""
    options = experiment.config.sample
    T = experiment.config.diffusion.timesteps
    length = min(steps, T)
    program = SampleProgram(experiment, mesh, with_options(options, steps=length))
    program(params, options.batch_size, seed=0)
    took = []
    for _ in range(_WINDOWS):
        begun = time.perf_counter()
        program(params, options.batch_size, seed=0)
        took.append(time.perf_counter() - begun)
    step = statistics.median(took) / length
    return {
        "sample_batch_size": options.batch_size,
        "sample_step_ms": 1e3 * step,
        "calls_per_s": program.calls / statistics.median(took),
        "chain_steps": options.steps or T,
        "chain_s_at_that_rate": (options.steps or T) * step,
    }
