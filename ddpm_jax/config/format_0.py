"""The step from format 0, of 2026-11-22, to format 1.

Settings of the training loop got other names, and a row of a table and its options became one
value. In format 0 the options of all rows lay side by side in their section. Each average got a
name. Every chain was strided. The kernels of 4×4 convolutions, stored as 2×2 over blocks of pixels,
got their own layout.
Normalisations added 1e-6 to the variance in every network, and no setting said so.
"""

import re
from collections.abc import Mapping
from typing import Any

from einops import rearrange

Plain = dict[str, Any]
Arrays = Mapping[str, Any]

RENAMED = {
    "train.accumulate": "train.gradient_accumulation_steps",
    "train.on_nan": "train.on_nonfinite",
    "train.max_bad_steps": "train.max_nonfinite_steps",
    "train.ema_decay": "train.averages.ema.decay",
    "diffusion.min_snr_gamma": "diffusion.weighting.gamma",
    "diffusion.p2_gamma": "diffusion.weighting.gamma",
    "diffusion.p2_k": "diffusion.weighting.k",
    "optimizer.name": "optimizer.method",
    "sample.clip": "sample.clipping",
}
"""Old names of settings and today's, for messages to people who still use the old ones."""

# The options that each row took, by their old names, and their new names.
_BETAS = {"beta_1": "beta_1", "beta_T": "beta_T"}
_SCHEDULES = {"linear": _BETAS, "quadratic": _BETAS, "sigmoid": _BETAS, "cosine": {"s": "s"}}
_WEIGHTINGS = {
    "none": {},
    "min_snr": {"min_snr_gamma": "gamma"},
    "p2": {"p2_gamma": "gamma", "p2_k": "k"},
}
_SAMPLERS = {"ddpm": {}, "ddpm-beta": {}, "ddim": {"eta": "eta"}}
_ADAM = {"beta1": "beta1", "beta2": "beta2", "eps": "eps"}
_OPTIMIZERS = {"adam": _ADAM, "adamw": {**_ADAM, "weight_decay": "weight_decay"}}
# What a row did that no setting said, or that was left to it.
_IMPLIED = {"ddpm": {"variance": "posterior"}, "ddim": {"eta": 0.0}}


def lift_config(config: Plain) -> Plain:
    """Returns a config of format 0 as one of format 1."""
    lifted = dict(config)
    if isinstance(lifted.get("train"), dict):
        new = {old: name.partition(".")[2] for old, name in RENAMED.items()}
        train = dict(lifted["train"])
        average = {"name": "ema", "decay": train.pop("ema_decay", 0.9999)}
        train = {new.get(f"train.{name}", name): value for name, value in train.items()}
        lifted["train"] = {**train, "averages": {"ema": average}}
    for section, old, new, default, rows in (
        ("diffusion", "schedule", "schedule", "linear", _SCHEDULES),
        ("diffusion", "weighting", "weighting", "none", _WEIGHTINGS),
        ("sample", "sampler", "sampler", "ddpm-beta", _SAMPLERS),
        ("optimizer", "name", "method", "adam", _OPTIMIZERS),
    ):
        # A section that is not a table is refused later.
        if isinstance(lifted.get(section), dict):
            lifted[section] = _joined(lifted[section], old, new, default, rows)
    model = lifted.get("model")
    if isinstance(model, dict) and model.get("kind") in ("small_unet", "annotated_unet"):
        lifted["model"] = {"norm_epsilon": 1e-6, **model}
    sample = lifted.get("sample")
    if isinstance(sample, dict):
        lifted["sample"] = {"grid": "strided", **sample}
    if isinstance(sample, dict) and "clip" in sample:
        clip = {"name": "clip", "low": -1.0, "high": 1.0, "eps": "recomputed"}
        clipping = clip if sample["clip"] else "none"
        rest = {name: value for name, value in lifted["sample"].items() if name != "clip"}
        lifted["sample"] = {**rest, "clipping": clipping}
    return lifted


def _joined(
    settings: Plain, old: str, new: str, default: str, rows: Mapping[str, Mapping[str, str]]
) -> Plain:
    """Returns a section with a row's name and its options as one value.

    Options of other rows had no effect and are left out. None left an option to its row.
    """
    name = settings.get(old, default)
    if not isinstance(name, str):  # It is refused later, and the message names it.
        return settings
    every = {option for options in rows.values() for option in options}
    options = {
        option: settings[before]
        for before, option in rows.get(name, {}).items()
        if settings.get(before) is not None
    }
    rest = {each: value for each, value in settings.items() if each not in {*every, old}}
    return {new: {"name": name, **_IMPLIED.get(name, {}), **options}, **rest}


def lift_arrays(arrays: Arrays, config: Plain) -> Arrays:
    """Returns the arrays of a checkpoint that was saved with that config as format 1 has them."""
    return unfold_strided_kernels(name_averages(arrays), config)


def name_averages(arrays: Arrays) -> Arrays:
    """Renames `bad` to `nonfinite`, and `ema.X` to `ema.ema.X`: each average has a name now."""

    def renamed(name: str) -> str:
        name = "nonfinite" if name == "bad" else name
        return re.sub(r"^ema\.", "ema.ema.", name)

    return {renamed(name): array for name, array in arrays.items()}


def unfold_strided_kernels(arrays: Arrays, config: Plain) -> Arrays:
    """Turns the 2×2 kernels over blocks of 2×2 pixels into the equivalent 4×4 kernels.

    They are the convolutions of stride 2 in small_unet and annotated_unet; their moments and
    averages are permuted alike.
    """
    if config["model"]["kind"] not in ("small_unet", "annotated_unet"):
        return arrays

    def unfolded(name: str, array: Any) -> Any:
        if re.search(r"\bdown_\d+\.conv\.kernel$", name):
            return unfold_downsampling(array)
        if re.search(r"\bup_\d+\.conv\.kernel$", name):
            return unfold_upsampling(array)
        return array

    return {name: unfolded(name, array) for name, array in arrays.items()}


def unfold_downsampling(kernel: Any) -> Any:
    """Returns the 4×4 kernel `[4, 4, C, K]` of a stride-2 convolution padded by 1.

    `kernel` `[2, 2, 4 C, K]` acts on the padded image in blocks, whose channels are (row, column,
    channel).
    """
    return rearrange(kernel, "p q (i j c) k -> (p i) (q j) c k", i=2, j=2)


def unfold_upsampling(kernel: Any) -> Any:
    """Returns the 4×4 kernel `[4, 4, C, K]` of the transposed convolution of stride 2.

    It is the one that `jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")` takes. `kernel`
    `[2, 2, C, 4 K]` acts on the image padded by 1 and gives blocks of 2×2 pixels, whose channels
    are (row, column, channel); a border of 1 is cropped. So pixel i of a block has rows 1 - i and
    3 - i of the 4×4 kernel.
    """
    split = rearrange(kernel, "p q c (i j k) -> p i q j c k", i=2, j=2)
    return rearrange(split[:, ::-1, :, ::-1], "p i q j c k -> (p i) (q j) c k")
