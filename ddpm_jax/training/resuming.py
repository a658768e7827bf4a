"""Whether and how a run goes on from a checkpoint with the config and the data of today."""

import math
import secrets
import time
from typing import Any

from jax.sharding import Mesh

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import Config
from ddpm_jax.data import identity
from ddpm_jax.data.classes import with_classes
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, learning_rate_of
from ddpm_jax.files import Remote, StoragePath
from ddpm_jax.runtime import distributed
from ddpm_jax.training.step import state_layout


def check_checkpoint(
    experiment: Experiment, mesh: Mesh, checkpoints: Checkpoints, step: int
) -> None:
    """Raises UserError if the run can't go on from a checkpoint, or a process doesn't see it."""
    _check_shared(checkpoints, step)
    _check_resume(experiment.config, checkpoints, step)
    _check_state(experiment, mesh, checkpoints, step)


def same_labels(
    config: Config,
    checkpoints: Checkpoints,
    step: int,
    source: Source,
    described: dict[str, Any],
) -> tuple[Source, dict[str, tuple[Any, Any]]]:
    """Returns the source with a checkpoint's labels, and how the data differ from its own.

    The order of the classes today does not matter: `described` gets the checkpoint's too. Raises
    UserError if the labels of the network would mean something else.
    """
    # An imported run has seen no data. Without names of classes its labels mean the first data's.
    before = checkpoints.data(step) or (_unrecorded(config, described) if step else described)
    if set(before["classes"]) == set(source.class_names):
        source = with_classes(source, before["classes"])
        described["classes"] = before["classes"]
    changes = identity.source_changes(before, described)
    for name, (old, new) in changes.items():
        if config.model.num_classes and name.startswith("data.classes"):
            raise UserError(
                f"{checkpoints.run} holds a run with {name} = {old!r}, and the data has {new!r}: "
                "its labels mean something else; put the data back, or choose another folder"
            )
    return source, changes


def _unrecorded(config: Config, described: dict[str, Any]) -> dict[str, Any]:
    """Returns what the data of a checkpoint was that is older than the record of it."""
    classes = described["classes"]
    # That version took the folders of classes in the order of words.
    classes = sorted(classes) if config.data.kind == "folder" else classes
    return {"examples": described["examples"], "classes": classes}


def rate_change(config: Config, checkpoints: Checkpoints, step: int) -> list[str]:
    """Returns a line with both learning rates, if the next is not what it would have been."""
    if not 0 < step < config.train.steps:
        return []
    course, changed = learning_rate_of(checkpoints.config(step)), learning_rate_of(config)
    rates: Any = course(step - 1), course(step), changed(step)
    last, due, now = map(float, rates)
    if math.isclose(now, due, rel_tol=1e-3):
        return []
    return [
        f"the learning rate goes from {last:.3g} to {now:.3g} at step {step:,}: "
        f"its course depends on train.steps and the optimizer's settings, which have changed"
    ]


def _check_shared(checkpoints: Checkpoints, step: int) -> None:
    """Raises UserError on every process if one of them doesn't see the checkpoint to continue."""
    _require_seen(step in checkpoints.steps(), f"finds checkpoint {step} in {checkpoints.folder}")


def require_shared(run: StoragePath) -> None:
    """Raises UserError on every process if one doesn't see what process 0 writes in a folder."""
    if distributed.is_alone() or isinstance(run, Remote):
        return

    def written() -> str:
        name = f".shared-{secrets.token_hex(8)}"
        (run / name).touch()
        return name

    sign = run / distributed.broadcast_from_first(written)
    try:
        until = time.monotonic() + _PATIENCE
        while not (found := sign.exists()) and time.monotonic() < until:
            time.sleep(0.2)
        _require_seen(found, f"writes in {run.absolute()}")
    finally:
        if distributed.is_first():
            sign.unlink(missing_ok=True)


# Some network disks remember for a minute that a folder was not there.
_PATIENCE = 90.0


def _require_seen(sees: bool, what: str) -> None:
    seen = distributed.allgather("seen", sees)
    if not all(seen):
        missing = ", ".join(str(process) for process, sees in enumerate(seen) if not sees)
        raise UserError(
            f"process 0 {what}, and process(es) {missing} see nothing of it; choose a folder that "
            "all of them share"
        )


def _check_resume(config: Config, checkpoints: Checkpoints, step: int) -> None:
    """Raises UserError if the run can't go on from a checkpoint with this config."""
    run, each = checkpoints.run, config.train.steps_per_dispatch
    changed = configs.breaking(checkpoints.config(step), config)
    if changed:
        name, (old, new) = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"{run} holds a run with {name} = {old!r}, and this config has {new!r}{more}; "
            "choose another folder, or put the setting back"
        )
    if step > config.train.steps:
        raise UserError(
            f"{run} has made {step} steps, and train.steps is {config.train.steps}; "
            f"set it to {step} or more, or choose another folder"
        )
    if step % each:
        raise UserError(
            f"train.steps_per_dispatch is {each}; it must divide step {step}, where {run} goes on"
        )


# The settings that decide which arrays a field of the state has. They may change if the saved
# arrays still fit, as from adam to adamw.
_STATE_SETTINGS = {
    "optimizer.": "opt_state",
    "train.averages": "ema",
    "train.timestep_sampler": "timesteps",
}


def _check_state(experiment: Experiment, mesh: Mesh, checkpoints: Checkpoints, step: int) -> None:
    """Raises UserError if a changed setting asks for other arrays than the checkpoint has.

    A checkpoint of step 0 has weights alone, and the rest begins anew.
    """
    if step == 0:
        return
    changed = configs.differences(checkpoints.config(step), experiment.config)
    for prefix, field in _STATE_SETTINGS.items():
        names = [name for name in changed if name.startswith(prefix)]
        if not names:
            continue
        layout = getattr(state_layout(experiment, mesh), field)
        if checkpoints.difference(step, {field: layout}) is not None:
            old, new = changed[names[0]]
            raise UserError(
                f"{checkpoints.run} holds a run with {names[0]} = {old!r}, and this config has "
                f"{new!r}, which does not fit its saved {field}; choose another folder, or put the "
                "setting back"
            )
