"""The step from format 0, of 2026-11-22, to format 1.

Settings of the training loop got other names, and a row of a table and its options became one
value. In format 0 the options of all rows lay side by side in their section.
"""

from collections.abc import Mapping
from typing import Any

Plain = dict[str, Any]

RENAMED = {
    "train.accumulate": "train.gradient_accumulation_steps",
    "train.on_nan": "train.on_nonfinite",
    "train.max_bad_steps": "train.max_nonfinite_steps",
    "diffusion.min_snr_gamma": "diffusion.weighting.gamma",
    "diffusion.p2_gamma": "diffusion.weighting.gamma",
    "diffusion.p2_k": "diffusion.weighting.k",
    "optimizer.name": "optimizer.method",
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


def lift_config(config: Plain) -> Plain:
    """Returns a config of format 0 as one of format 1."""
    lifted = dict(config)
    if isinstance(lifted.get("train"), dict):
        new = {old: name.partition(".")[2] for old, name in RENAMED.items()}
        train = lifted["train"].items()
        lifted["train"] = {new.get(f"train.{name}", name): value for name, value in train}
    for section, old, new, default, rows in (
        ("diffusion", "schedule", "schedule", "linear", _SCHEDULES),
        ("diffusion", "weighting", "weighting", "none", _WEIGHTINGS),
        ("sample", "sampler", "sampler", "ddpm-beta", _SAMPLERS),
        ("optimizer", "name", "method", "adam", _OPTIMIZERS),
    ):
        # What is no table of settings is refused later, with its name.
        if isinstance(lifted.get(section), dict):
            lifted[section] = _joined(lifted[section], old, new, default, rows)
    return lifted


def _joined(
    settings: Plain, old: str, new: str, default: str, rows: Mapping[str, Mapping[str, str]]
) -> Plain:
    """Returns a section with a row's name and its options as one value.

    Options of other rows had no effect and are left out. None left an option to its row.
    """
    name = settings.get(old, default)
    if not isinstance(name, str):  # It is refused later, with its name.
        return settings
    every = {option for options in rows.values() for option in options}
    options = {
        option: settings[before]
        for before, option in rows.get(name, {}).items()
        if settings.get(before) is not None
    }
    rest = {each: value for each, value in settings.items() if each not in {*every, old}}
    return {new: {"name": name, **options}, **rest}
