"""Runs OpenAI's `UNetModel`s once, and keeps their names and outputs in openai.npz.

By hand, beside checkouts of openai/improved-diffusion (1bc7bbb) and openai/guided-diffusion
(22e0df8), in an environment with torch 2.13:

    PYTHONPATH=improved-diffusion:guided-diffusion python tests/weights/make_openai.py
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

COMMON = {"in_channels": 3, "model_channels": 64, "num_res_blocks": 1, "channel_mult": (1, 2)}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # Several heads, labels, scale and shift: improved-diffusion's layout.
    "improved": (
        "improved_diffusion",
        {"out_channels": 3, "attention_resolutions": (2,), "num_heads": 4, "num_classes": 3}
        | {"use_scale_shift_norm": True},
    ),
    # Residual blocks that resample, heads of a given width, the newer order: guided-diffusion's.
    "guided": (
        "guided_diffusion",
        {"out_channels": 3, "attention_resolutions": (1, 2), "num_head_channels": 32}
        | {"image_size": 8, "resblock_updown": True, "use_new_attention_order": True},
    ),
    # The same with a learned variance, the older order, and convolutions.
    "learned": (
        "guided_diffusion",
        {"out_channels": 6, "attention_resolutions": (), "num_heads": 2, "image_size": 8},
    ),
}
# Times as their networks get them: the first and the last.
T = [0.0, 999.0]


def main() -> None:
    import torch  # type: ignore[import-not-found]
    from formula import wave, weights  # type: ignore[import-not-found]

    kept: dict[str, Any] = {}
    for name, (package, settings) in CASES.items():
        unet = importlib.import_module(f"{package}.unet")
        network = unet.UNetModel(**COMMON, **settings).eval()
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        filled = weights(shapes)
        network.load_state_dict({k: torch.from_numpy(v) for k, v in filled.items()})
        x = torch.from_numpy(wave((2, 3, 8, 8), 1.0))
        labels = {"y": torch.tensor([0, 2])} if "num_classes" in settings else {}
        with torch.no_grad():
            y = network(x, torch.tensor(T), **labels)
        kept[f"{name}.shapes"] = json.dumps(shapes)
        kept[f"{name}.y"] = y.numpy()
        print(name, f"{sum(v.size for v in filled.values()):,} numbers, outputs of {y.std():.3f}")
    np.savez_compressed(Path(__file__).parent / "openai.npz", **kept)


if __name__ == "__main__":
    main()
