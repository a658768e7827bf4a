"""Folders as diffusers saves a pipeline, of the networks in diffusers.npz."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.weights.formula import weights

KEPT = dict(np.load(Path(__file__).parent / "diffusers.npz"))
CASES = sorted(name.removesuffix(".y") for name in KEPT if name.endswith(".y"))
# google/ddpm-cifar10-32's own, of diffusers 0.1.1.
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}


def settings(case: str) -> dict[str, Any]:
    return {"_class_name": "UNet2DModel", **json.loads(str(KEPT[f"{case}.config"]))}


@cache
def tensors(case: str) -> dict[str, np.ndarray]:
    return weights(json.loads(str(KEPT[f"{case}.shapes"])))


def pipeline(
    folder: Path,
    case: str = "residual",
    *,
    flat: bool = False,
    unet: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
    old_keys: bool = False,
) -> Path:
    """Writes a pipeline as diffusers saves it; other values of fields may be given."""
    where = (folder, folder) if flat else (folder / "unet", folder / "scheduler")
    for each in where:
        each.mkdir(parents=True, exist_ok=True)
    (where[0] / "config.json").write_text(json.dumps(settings(case) | (unet or {})))
    (where[1] / "scheduler_config.json").write_text(json.dumps(SCHEDULER | (scheduler or {})))
    saved = tensors(case)
    if old_keys:
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value"}.items():
            saved = {name.replace(f".{new}.", f".{old}."): it for name, it in saved.items()}
        saved = {name.replace(".to_out.0.", ".proj_attn."): it for name, it in saved.items()}
    save_file(saved, where[0] / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return folder
