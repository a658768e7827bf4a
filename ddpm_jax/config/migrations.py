"""What was saved by older versions, lifted to today's format one step at a time.

`config.json` and a checkpoint's `meta.json` carry `format`. Without it they are of format 0. When
a setting gets another name or form, or an array another name or layout, add a row to MIGRATIONS:
`FORMAT` counts them. A row says everything itself: it must not depend on today's defaults, as they
may change later.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ddpm_jax.errors import UserError

Plain = dict[str, Any]
"""A config as nested plain values, as JSON has it."""
Arrays = dict[str, Any]
"""The arrays of a checkpoint by their dotted names, as `arrays.json` has them."""


def _unchanged(arrays: Arrays, config: Plain) -> Arrays:
    return arrays


class Migration(NamedTuple):
    """One step, from a format to the next."""

    config: Callable[[Plain], Plain]
    """Lifts a config; settings may be missing. It must not change its argument."""
    arrays: Callable[[Arrays, Plain], Arrays] = _unchanged
    """Lifts the arrays of a checkpoint; the config is the one before this step."""


# --- from 0 to 1: renamed settings of the loop; a row and its options became one value ------------

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


MIGRATIONS: tuple[Migration, ...] = (Migration(config=_from_0),)
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
