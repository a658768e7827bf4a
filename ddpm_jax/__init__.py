"""Denoising diffusion probabilistic models in JAX: train, resume, sample and evaluate.

    import ddpm_jax
    run = ddpm_jax.load("runs/digits")
    run.sample(num=16, seed=0, labels=[3] * 16).samples

The mathematics is in `ddpm_jax.diffusion`, the networks in `ddpm_jax.models`, and a config becomes
an experiment in `ddpm_jax.experiment`; each can be used without the others above it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_jax.config import Config
    from ddpm_jax.errors import UserError
    from ddpm_jax.experiment import Experiment, build
    from ddpm_jax.sampling.run import Run, load

_HOMES = {
    "Config": "config",
    "UserError": "errors",
    "Experiment": "experiment",
    "build": "experiment",
    "Run": "sampling.run",
    "load": "sampling.run",
}

__all__ = ["Config", "Experiment", "Run", "UserError", "build", "load"]


def __getattr__(name: str) -> Any:
    # Loaded at first use: `ddpm --help` must not wait for JAX.
    if name not in _HOMES:
        raise AttributeError(f"module 'ddpm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ddpm_jax.{_HOMES[name]}"), name)
