"""What was saved by older versions, lifted to today's format one step at a time.

`config.json` and a checkpoint's `meta.json` carry `format`. Without it they are of format 0. When
a setting gets another name or form, or an array another name or layout, add a row to MIGRATIONS:
`FORMAT` counts them. A row says everything itself: it must not depend on today's defaults, as they
may change later.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from einops import rearrange

from ddpm_jax.errors import UserError

Plain = dict[str, Any]
"""A config as nested plain values, as JSON has it."""
Arrays = Mapping[str, Any]
"""The arrays of a checkpoint, or their shapes while traced, by their names in `arrays.json`."""


def _unchanged(arrays: Arrays, config: Plain) -> Arrays:
    return arrays


class Migration(NamedTuple):
    """One step, from a format to the next."""

    config: Callable[[Plain], Plain]
    """Lifts a config; settings may be missing. It must not change its argument."""
    arrays: Callable[[Arrays, Plain], Arrays] = _unchanged
    """Lifts the arrays of a checkpoint; the config is the one before this step."""


# --- from 0 to 1: renamed settings; a row and its options are one value; kernels as published -----

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

# Which options each row took; in format 0 all of them lay beside each other in the section.
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


def _from_0(config: Plain) -> Plain:
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
    """Returns a section in which a row's name and its options, once apart, are one value.

    Options of other rows did nothing, and are left out. None left an option to its row.
    """
    name = settings.get(old, default)
    every = {option for options in rows.values() for option in options}
    options = {
        option: settings[before]
        for before, option in rows.get(name, {}).items()
        if settings.get(before) is not None
    }
    rest = {each: value for each, value in settings.items() if each not in {*every, old}}
    return {new: {"name": name, **options}, **rest}


def name_averages(arrays: Arrays) -> Arrays:
    """Renames `bad` to `nonfinite`, and `ema.X` to `ema.ema.X`: each average has a name now."""

    def renamed(name: str) -> str:
        name = "nonfinite" if name == "bad" else name
        return re.sub(r"^ema\.", "ema.ema.", name)

    return {renamed(name): array for name, array in arrays.items()}


def unfold_strided_kernels(arrays: Arrays, config: Plain) -> Arrays:
    """Turns the 2×2 kernels over blocks of 2×2 pixels into the 4×4 kernels that they are.

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


def _arrays_from_0(arrays: Arrays, config: Plain) -> Arrays:
    return unfold_strided_kernels(name_averages(arrays), config)


MIGRATIONS: tuple[Migration, ...] = (Migration(config=_from_0, arrays=_arrays_from_0),)
FORMAT = len(MIGRATIONS)
"""The format that this version writes."""


def lift(config: Plain, saved: Any) -> Plain:
    """Returns a config that was saved in an older format as one of today's format.

    Raises UserError for a format that this version does not know.
    """
    for migration in steps_from(saved):
        config = migration.config(config)
    return config


def lift_arrays(arrays: Arrays, config: Plain, saved: Any) -> Arrays:
    """Returns the arrays of a checkpoint, saved with that config, in today's format.

    Raises UserError for a format that this version does not know.
    """
    for migration in steps_from(saved):
        arrays, config = migration.arrays(arrays, config), migration.config(config)
    return arrays


def steps_from(saved: Any) -> tuple[Migration, ...]:
    """Returns the migrations from a format to today's; raises UserError for one of the future."""
    if type(saved) is not int or saved < 0:
        raise UserError(f"format is {saved!r}; it must be a whole number")
    if saved > FORMAT:
        raise UserError(
            f"format is {saved}, and this ddpm_jax knows formats up to {FORMAT}; update ddpm_jax"
        )
    return MIGRATIONS[saved:]
