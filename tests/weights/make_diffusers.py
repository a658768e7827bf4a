"""Runs diffusers' `UNet2DModel` once, and keeps its settings, names and outputs in diffusers.npz.

By hand, in an environment with torch 2.13 and diffusers 0.42:

    python tests/weights/make_diffusers.py
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

PLAIN = {"flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None}
PLAIN |= {"downsample_padding": 0, "norm_eps": 1e-6}
CASES: dict[str, dict[str, Any]] = {
    # google/ddpm-cifar10-32, narrowed.
    "cifar10": {
        "sample_size": 8,
        "block_out_channels": (8, 16, 16, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        **PLAIN,
    },
    # google/ddpm-celebahq-256, narrowed.
    "celebahq256": {
        "sample_size": 32,
        "block_out_channels": (4, 4, 8, 8, 16, 16),
        "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
        "norm_num_groups": 2,
        **PLAIN,
    },
    # The defaults of UNet2DModel, where they differ from both.
    "defaults": {
        "sample_size": (8, 16),
        "layers_per_block": 1,
        "block_out_channels": (8, 16, 16, 16),
        "norm_num_groups": 4,
    },
    # What guided-diffusion's networks have.
    "residual": {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": 4,
        "attn_norm_num_groups": 4,
        "num_class_embeds": 4,
    },
}
T = [0, 999]


def main() -> None:
    import torch  # type: ignore[import-not-found]
    from diffusers import UNet2DModel  # type: ignore[import-not-found]
    from formula import wave, weights  # type: ignore[import-not-found]

    kept: dict[str, Any] = {}
    for name, settings in CASES.items():
        network = UNet2DModel(**settings).eval()
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict({k: torch.from_numpy(v) for k, v in weights(shapes).items()})
        size = settings["sample_size"]
        x = torch.from_numpy(wave((2, 3, *np.broadcast_to(size, 2)), 1.0))
        labels = {"class_labels": torch.tensor([1, 3])} if "num_class_embeds" in settings else {}
        with torch.no_grad():
            y = network(x, torch.tensor(T), **labels).sample
        kept[f"{name}.config"] = json.dumps(dict(network.config))
        kept[f"{name}.shapes"] = json.dumps(shapes)
        kept[f"{name}.y"] = y.numpy()
        print(name, f"{network.num_parameters():,} parameters, outputs of {y.std():.3f}")
    np.savez_compressed(Path(__file__).parent / "diffusers.npz", **kept)


if __name__ == "__main__":
    main()
