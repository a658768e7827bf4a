"""Denoising diffusion probabilistic models in JAX: train, resume, sample and evaluate.

    import ddpm_jax
    run = ddpm_jax.train("digits", "runs/digits").run       # or ddpm_jax.load("runs/digits")
    run.sample(16, labels=[3] * 16).samples

The mathematics is in `ddpm_jax.diffusion`, the networks in `ddpm_jax.models`, and a config becomes
an experiment in `ddpm_jax.experiment`. Each can be used without the rooms above it; `README.md` in
this folder describes them all.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_jax.api import Picture, Run, TrainResult, load, train
    from ddpm_jax.config import Config
    from ddpm_jax.errors import UserError
    from ddpm_jax.experiment import Experiment, build

_MODULES = {
    "Config": "config",
    "Experiment": "experiment",
    "Picture": "api",
    "Run": "api",
    "TrainResult": "api",
    "UserError": "errors",
    "build": "experiment",
    "load": "api",
    "train": "api",
}

__all__ = [
    "Config",
    "Experiment",
    "Picture",
    "Run",
    "TrainResult",
    "UserError",
    "build",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    # Imported at first use: `ddpm --help` must not wait for JAX.
    if name not in _MODULES:
        raise AttributeError(f"module 'ddpm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ddpm_jax.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
