"""Training from the first step, or from where it stopped, to the last one and its pictures."""

from typing import Any

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import Config
from ddpm_jax.data import identity, open_source, resolve
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.files import StoragePath, exclusive, replacing, storage_path
from ddpm_jax.runtime import distributed
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.training.logging.run_logger import RunLogger
from ddpm_jax.training.preemption import PreemptionHandler
from ddpm_jax.training.step import check_batch
from ddpm_jax.training.trainer import Trainer


def train(config: Config, workdir: str | StoragePath) -> int:
    """Trains a config in a run folder, going on from its newest good checkpoint if it has one.

    Returns the process's exit code: 0 when the last step is done or SIGTERM ended it after a save,
    130 after SIGINT. Raises UserError, before anything is written, if the config can't be trained
    here or the folder holds a run of another network.
    """
    run, config = storage_path(workdir), resolve(config)
    mesh = make_mesh(config.mesh.fsdp)
    check_batch(config, mesh)
    if run.exists() and not run.is_dir():
        raise UserError(f"--workdir {run} is a file; name a folder")
    source = open_source(config.data)
    experiment = build(config)
    # Previews and the last pictures are of one size, and so of one compiled program.
    program = SampleProgram(experiment, mesh, config.sample)
    checkpoints = Checkpoints(run, report=print)
    distributed.compare(_what_must_agree(config, run, source))
    step = distributed.broadcast_from_first(lambda: checkpoints.newest_good() or 0)
    other_data = {}
    if step:
        _check_shared(checkpoints, step)
        _check_resume(config, checkpoints, step)
        other_data = _check_data(config, checkpoints, step, source)
    _check_labels(config, source)
    speaks = distributed.is_first()
    with exclusive(run, needed=speaks):
        changes = _describe(config, run) if speaks else {}
        if speaks:
            _tell(other_data, step)
        total = max(step, config.train.steps)
        journal = RunLogger(run, start=step, total=total, silent=not speaks)
        if changes:
            journal.event(step, "config", changes=changes)
        if other_data:
            journal.event(step, "data", changes=other_data)
        try:
            with PreemptionHandler(journal.say) as stop:
                session = Trainer(program, source, checkpoints, journal, stop)
                state, step = session.steps(session.begin(step), step)
                if not stop.reached():
                    session.finish(state)
                ended = stop.reached()
            if ended:
                journal.say(f"stopped at step {step}; run the same command again to go on")
            return stop.exit_code
        finally:
            journal.close()
            checkpoints.close()


def _what_must_agree(config: Config, run: StoragePath, source: Source) -> dict[str, Any]:
    """What every process must have the same of, or they would train different networks."""
    data = {f"data.{name}": value for name, value in identity.describe_source(source).items()}
    return {**configs.flatten(config), "--workdir": str(run), **distributed.versions(), **data}


def _check_shared(checkpoints: Checkpoints, step: int) -> None:
    """Raises UserError on every process if one of them doesn't see the checkpoint to go on from."""
    seen = distributed.allgather("seen", step in checkpoints.steps())
    if not all(seen):
        missing = ", ".join(str(process) for process, sees in enumerate(seen) if not sees)
        raise UserError(
            f"process 0 finds checkpoint {step} in {checkpoints.folder}, and process(es) {missing} "
            "don't; give a --workdir that all of them share"
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
            "choose another --workdir, or put the setting back"
        )
    if step % each:
        raise UserError(
            f"train.steps_per_dispatch is {each}; it must divide step {step}, where {run} goes on"
        )


def _check_data(
    config: Config, checkpoints: Checkpoints, step: int, source: Source
) -> dict[str, tuple[Any, Any]]:
    """Returns how the data differ from a checkpoint's; raises UserError if its labels do."""
    before = checkpoints.data(step)
    if before is None:  # It is older than this entry.
        return {}
    changes = identity.source_changes(before, identity.describe_source(source))
    for name, (old, new) in changes.items():
        if config.model.num_classes and name != "data.examples":
            raise UserError(
                f"{checkpoints.run} holds a run with {name} = {old!r}, and the data has {new!r}: "
                "its labels mean something else; put the data back, or choose another --workdir"
            )
    return changes


def _tell(changes: dict[str, tuple[Any, Any]], step: int) -> None:
    for name, (before, after) in changes.items():
        others = f": each epoch has another order from step {step:,} on"
        print(f"{name}: {before!r} -> {after!r}{others if name == 'data.examples' else ''}")


def _check_labels(config: Config, source: Source) -> None:
    classes = config.model.num_classes
    if not classes:
        return
    have = len(source.class_names)
    if have != classes:
        raise UserError(
            f"model.num_classes is {classes}, and the data has {have or 'no'} classes; "
            f"use --model.num_classes {have}"
        )


def _describe(config: Config, run: StoragePath) -> dict[str, tuple[Any, Any]]:
    """Writes config.json; prints, and returns, what changed since the last time, if anything."""
    path = run / "config.json"
    changes = {}
    if path.is_file():
        old = configs.loads(path.read_text(), str(path))
        changes = configs.differences(old, config)
        for name, (before, after) in changes.items():
            print(f"{name}: {before!r} -> {after!r}")
    with replacing(path) as beside:
        beside.write_text(configs.dumps(config))
    return changes
