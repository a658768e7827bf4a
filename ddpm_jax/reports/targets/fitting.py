"""What to change in a config whose training step is too large for a target's memory.

The compiler has said how much the step needs; compiling each alternative would take minutes more.
So the model of `reports.scaling` says by which factor a change shrinks it.
"""

from collections.abc import Iterator
from typing import Any

from ddpm_jax.config import Config, override
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.reports.scaling import kept_bytes, predict_memory
from ddpm_jax.reports.targets.topology import Target


def what_fits(config: Config, target: Target, need: int | None) -> list[dict[str, Any]]:
    """Returns the smallest change of each kind that should fit, with the bytes that it needs.

    `need` is what the compiler says that a device needs now, None if it did not. Each row has the
    `settings` to give, and its `need_bytes`. What does not fit by itself is tried together with
    model.remat. An empty list: nothing fits.
    """
    have, keeps = target.hardware.memory, target.hardware.kept
    factor, found = None, []
    for base in _bases(config):
        changed = override(config, base)
        kept = kept_bytes(build(changed, devices=target.devices))
        if factor is None:
            now = predict_memory(config, target.devices, kept).peak(keeps)
            # What the compiler needs beyond the model, or less, is assumed to shrink alike.
            factor = need / now if need else 1.0
        for kind, settings in _changes(config):
            if kind in [row["change"] for row in found]:
                continue
            try:
                memory = predict_memory(override(changed, settings), target.devices, kept)
                peak = round(factor * memory.peak(keeps))
            except UserError:  # The devices can't share such a batch or mesh.
                continue
            if peak <= have:
                every = {**base, **settings}
                found.append({"change": kind, "settings": every, "need_bytes": peak})
    return found


def _bases(config: Config) -> list[dict[str, Any]]:
    can = hasattr(config.model, "remat") and not getattr(config.model, "remat", False)
    return [{}, {"model.remat": True}] if can else [{}]


def _changes(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the changes to try: the mildest of each kind first."""
    train = config.train
    yield "remat", {}
    size, parts = 2, train.gradient_accumulation_steps
    while size <= train.batch_size // parts:
        yield "accumulation", {"train.gradient_accumulation_steps": parts * size}
        yield "fsdp", {"mesh.fsdp": config.mesh.fsdp * size}
        yield "batch", {"train.batch_size": train.batch_size // size}
        size *= 2
