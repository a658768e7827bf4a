"""Runs denoising-diffusion-pytorch once, and keeps outputs and tables in lucidrains.npz.

By hand, in an environment with torch 2.13, einops, scipy, tqdm, packaging, Pillow, and with
denoising-diffusion-pytorch 2.3.4 installed by `--no-deps`; what it imports besides is not needed:

    python tests/weights/make_lucidrains.py
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

SIZES = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_dim_head": 4}
CASES = {
    "usual": {"channels": 3},
    "recalling": {"channels": 3, "self_condition": True, "full_attn": (True, False)},
    "learned": {"channels": 1, "learned_variance": True},
}
T = 50
TABLES = {
    "pred_v": {"objective": "pred_v", "beta_schedule": "sigmoid"},
    "pred_noise": {"objective": "pred_noise", "beta_schedule": "linear"},
    "pred_x0": {"objective": "pred_x0", "beta_schedule": "cosine"},
    "min_snr": {"objective": "pred_v", "beta_schedule": "cosine", "min_snr_loss_weight": True},
}


class Anything(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def main() -> None:
    import torch  # type: ignore[import-not-found]

    for name in ("torchvision", "ema_pytorch", "accelerate", "pytorch_fid"):
        sys.modules[name] = Anything(name)
    for name in ("inception", "fid_score"):
        sys.modules[f"pytorch_fid.{name}"] = Anything(name)
    from denoising_diffusion_pytorch.denoising_diffusion_pytorch import (  # type: ignore[import-not-found]
        GaussianDiffusion,
        Unet,
    )
    from formula import wave, weights  # type: ignore[import-not-found]

    kept: dict[str, Any] = {}
    for name, settings in CASES.items():
        network = Unet(**SIZES, **settings).eval()
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict({k: torch.from_numpy(v) for k, v in weights(shapes).items()})
        shape = (2, settings["channels"], 8, 8)
        given = [torch.from_numpy(wave(shape, 1.0)), torch.tensor([0, T - 1])]
        if "self_condition" in settings:
            given.append(torch.from_numpy(wave(shape, 2.0)))
        with torch.no_grad():
            y = network(*given)
        kept[f"{name}.shapes"], kept[f"{name}.y"] = json.dumps(shapes), y.numpy()
        print(name, f"{sum(p.numel() for p in network.parameters()):,}", f"{y.std():.3f}")
    network = Unet(**SIZES, channels=3)
    for name, settings in TABLES.items():
        tables = GaussianDiffusion(network, image_size=8, timesteps=T, **settings).state_dict()
        for table in ("betas", "alphas_cumprod", "loss_weight"):
            kept[f"{name}.{table}"] = tables[table].numpy()
    np.savez_compressed(HERE / "lucidrains.npz", **kept)


if __name__ == "__main__":
    main()
