"""Training from the first step, or from where it stopped, to the last one and its pictures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import Config
from ddpm_jax.data import identity, open_source, resolve
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build, learning_rate_of
from ddpm_jax.files import StoragePath, exclusive, replacing, storage_path
from ddpm_jax.ops import from_environment
from ddpm_jax.runtime import distributed
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.runtime.switches import pinned, require_compiling
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.run import Run
from ddpm_jax.tables import choose
from ddpm_jax.training.logging.run_logger import LOGGERS, RunLogger
from ddpm_jax.training.preemption import PreemptionHandler
from ddpm_jax.training.step import check_batch, state_layout
from ddpm_jax.training.trainer import Trainer


class TrainResult(NamedTuple):
    """How a call of `train` ended."""

    run: Run
    """The trained run, ready to sample: the first of its averages."""
    step: int
    """How many steps have been made."""
    signal: int | None
    """The signal at which it saved and stopped; None if all steps are done."""


@pinned()
def train(
    config: Config,
    workdir: str | StoragePath,
    *,
    source: Source | None = None,
    mesh: Mesh | None = None,
    report: Callable[[str], None] | None = None,
    preemption: PreemptionHandler | None = None,
) -> TrainResult:
    """Trains a config in a run folder, going on from its newest good checkpoint if it has one.

    `source` is trained on in place of the one that `config.data` names, whose shape it must have.
    `mesh` has the axes data and fsdp; the default holds all devices. `report` gets the lines that
    people want to read, and nothing is printed without it. `preemption` says when to save and stop;
    no signal handler is installed here. Raises UserError, before anything is written, if the config
    can't be trained here or the folder holds a run of another network; later, if too many steps in
    a row are not finite or the last state can't be saved.
    """
    require_compiling()
    run = storage_path(workdir)
    config = resolve(config)
    mesh = make_mesh(config.mesh.fsdp) if mesh is None else mesh
    check_batch(config, mesh)
    _check_rows(config)
    if run.exists() and not run.is_dir():
        raise UserError(f"the run folder {run} is a file; name a folder")
    source = open_source(config.data) if source is None else source
    _check_source(config, source)
    experiment = build(config, devices=mesh.size)
    report = report if distributed.is_first() else None
    # Previews and the last pictures share one size, and thus one compiled program.
    program = SampleProgram(experiment, mesh, config.sample)
    checkpoints = Checkpoints(run, report=report or _ignore)
    distributed.compare(_what_must_agree(config, run, source))
    step = distributed.broadcast_from_first(lambda: checkpoints.newest_good() or 0)
    data_changes = {}
    if step:
        _check_shared(checkpoints, step)
        _check_resume(config, checkpoints, step)
        _check_state(experiment, mesh, checkpoints, step)
        data_changes = _check_data(config, checkpoints, step, source)
    _check_labels(config, source)
    with exclusive(run, needed=distributed.is_first()):
        logger = _start_log(config, run, step, data_changes, report)
        try:
            _say_cautions(logger, config, checkpoints, program, step)
            should_stop = preemption.reached if preemption is not None else lambda: False
            trainer = Trainer(program, source, checkpoints, logger, should_stop=should_stop)
            state, step = trainer.train(trainer.begin(step), step)
            if not should_stop():
                trainer.finish(state)
            stopped = should_stop()
            if stopped:
                logger.say(f"stopped at step {step}; run the same command again to go on")
        finally:
            logger.close()
            checkpoints.close()
    name = config.train.first_average
    trained = Run(run, step, experiment, state.ema[name], name=name, mesh=mesh, report=report)
    return TrainResult(trained, step, preemption.signal if preemption and stopped else None)


def _ignore(line: str) -> None:
    del line


def _check_source(config: Config, source: Source) -> None:
    found, expected = tuple(source.shape), tuple(config.data.example_shape)
    if found != expected:
        raise UserError(
            f"the source has examples of shape {found}, and config.data says {expected}; "
            "change one of them"
        )


def _start_log(
    config: Config,
    run: StoragePath,
    step: int,
    data_changes: dict[str, tuple[Any, Any]],
    report: Callable[[str], None] | None,
) -> RunLogger:
    """Writes config.json, opens the loggers, and logs what changed since the run was last here."""
    writes = distributed.is_first()
    changes = _write_config(config, run) if writes else {}
    logger = RunLogger(
        run,
        start=step,
        total=max(step, config.train.steps),
        loggers=config.train.loggers,
        settings=configs.flatten(config),
        report=report,
        silent=not writes,
    )
    for name, (before, after) in {**changes, **data_changes}.items():
        others = f": each epoch has another order from step {step:,} on"
        logger.say(f"{name}: {before!r} -> {after!r}{others if name == 'data.examples' else ''}")
    if changes:
        logger.event(step, "config", changes=changes)
    if data_changes:
        logger.event(step, "data", changes=data_changes)
    return logger


def _write_config(config: Config, run: StoragePath) -> dict[str, tuple[Any, Any]]:
    """Writes config.json, and returns what changed since it was last written."""
    path = run / "config.json"
    changes = {}
    if path.is_file():
        changes = configs.differences(configs.loads(path.read_text(), str(path)), config)
    with replacing(path) as beside:
        beside.write_text(configs.dumps(config))
    return changes


def _what_must_agree(config: Config, run: StoragePath, source: Source) -> dict[str, Any]:
    """Returns what must be equal on all processes, so that they train the same network."""
    data = {f"data.{name}": value for name, value in identity.describe_source(source).items()}
    ops = from_environment()
    programs = {"DDPM_JAX_OPS": ops.choice, "JAX_DEFAULT_MATMUL_PRECISION": ops.precision}
    run_facts = {"workdir": str(run), **programs, **distributed.versions(), **data}
    return {**configs.flatten(config), **run_facts}


def _check_rows(config: Config) -> None:
    """Raises UserError for names that the tables of this room do not have."""
    try:
        for name in config.train.loggers:
            choose("logger", LOGGERS, name)
    except ValueError as error:
        raise UserError(str(error)) from None


def _check_labels(config: Config, source: Source) -> None:
    """Raises UserError if the data does not have the classes that the network is built for."""
    classes, have = config.model.num_classes, len(source.class_names)
    if classes and have != classes:
        raise UserError(
            f"model.num_classes is {classes}, and the data has {have or 'no'} classes; "
            f"set model.num_classes to {have}"
        )


def _check_shared(checkpoints: Checkpoints, step: int) -> None:
    """Raises UserError on every process if one of them doesn't see the checkpoint to continue."""
    seen = distributed.allgather("seen", step in checkpoints.steps())
    if not all(seen):
        missing = ", ".join(str(process) for process, sees in enumerate(seen) if not sees)
        raise UserError(
            f"process 0 finds checkpoint {step} in {checkpoints.folder}, and process(es) {missing} "
            "don't; choose a folder that all of them share"
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
    """Raises UserError if a changed setting asks for other arrays than the checkpoint has."""
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


def _say_cautions(
    logger: RunLogger,
    config: Config,
    checkpoints: Checkpoints,
    program: SampleProgram,
    step: int,
) -> None:
    for line in [*_rate_jump(config, checkpoints, step), *program.cautions]:
        logger.say(line)


def _rate_jump(config: Config, checkpoints: Checkpoints, step: int) -> list[str]:
    """Returns a line with both learning rates if a changed config makes the rate jump here."""
    if not 0 < step < config.train.steps:
        return []
    before, now = learning_rate_of(checkpoints.config(step)), learning_rate_of(config)
    last, expected, rate = map(np.asarray, (before(step - 1), before(step), now(step)))
    if np.isclose(expected, rate, rtol=0.01, atol=0):
        return []
    return [f"the learning rate jumps from {last:.2g} to {rate:.2g} with the changed settings"]


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
                "its labels mean something else; put the data back, or choose another folder"
            )
    return changes
