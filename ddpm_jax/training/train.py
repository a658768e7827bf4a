"""Training from the first step, or from where it stopped, to the last one and its pictures."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.explaining import require_path
from ddpm_jax.config import Config
from ddpm_jax.data import describe_place, identity, open_source, resolve
from ddpm_jax.data.classes import describe_classes
from ddpm_jax.data.source import ArraySource, Source
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.files import StoragePath, exclusive, replacing, storage_path
from ddpm_jax.ops import from_environment
from ddpm_jax.runtime import distributed
from ddpm_jax.runtime.memory import device_bytes, memory_errors, require_memory
from ddpm_jax.runtime.mesh import bytes_per_device, make_mesh
from ddpm_jax.runtime.switches import pinned, require_compiling
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.files import animation_size
from ddpm_jax.sampling.run import Run
from ddpm_jax.tables import choose
from ddpm_jax.training.logging.run_logger import LOGGERS, RunLogger
from ddpm_jax.training.pictures import has_pictures
from ddpm_jax.training.preemption import PreemptionHandler
from ddpm_jax.training.profiling import make_profile
from ddpm_jax.training.resuming import (
    check_checkpoint,
    rate_change,
    require_shared,
    same_labels,
)
from ddpm_jax.training.starting import first_weights
from ddpm_jax.training.step import batch_layout, check_batch, state_layout
from ddpm_jax.training.trainer import LESS_MEMORY, Trainer
from ddpm_jax.training.validation import make_validation, split
from ddpm_jax.typing import is_image


class TrainResult(NamedTuple):
    """How a call of `train` ended."""

    run: Run
    """The trained run, ready to sample: the first of its averages."""
    step: int
    """How many steps have been made."""
    signal: int | None
    """The signal at which it saved and stopped; None if all steps are done."""
    start: int
    """The step that it went on from; `step` itself if the run was finished before."""


@pinned()
def train(
    config: Config,
    workdir: str | StoragePath,
    *,
    source: Source | None = None,
    mesh: Mesh | None = None,
    report: Callable[[str], None] | None = None,
    preemption: PreemptionHandler | None = None,
    profile: int | None = None,
) -> TrainResult:
    """Trains a config in a run folder, going on from its newest good checkpoint if it has one.

    `source` is trained on in place of the one that `config.data` names, whose shape it must have.
    `mesh` has the axes data and fsdp; the default holds all devices. `report` gets the lines that
    people want to read, and nothing is printed without it. `preemption` says when to save and stop;
    no signal handler is installed here. `profile` traces so many steps into `workdir`/profile. A
    finished run, pictures included, is left as it is. Raises UserError, before it writes, if the
    config can't be trained here or the folder holds a run of another network or seed, or of more
    steps; later, if too many steps in a row are not finite or the last state can't be saved.
    """
    require_compiling()
    run = storage_path(workdir)
    more: dict[str, Any] = {"preemption": preemption}
    more["profile"] = make_profile(run, profile, report or _ignore)
    config = resolve(config)
    mesh = make_mesh(config.mesh.fsdp) if mesh is None else mesh
    check_batch(config, mesh)
    _check_rows(config)
    _check_folder(run)
    source, place = _opened(config, source)
    experiment = build(config, devices=mesh.size)
    report = report if distributed.is_first() else None
    tell = report or _ignore
    checkpoints = Checkpoints(run, report=tell)
    described = identity.describe_source(source)
    source, held_out = split(config, source)
    distributed.compare(_what_must_agree(config, run, described, held_out))
    seen, saved = checkpoints.steps(), distributed.broadcast_from_first(checkpoints.newest_good)
    start, data_changes = saved or 0, dict[str, Any]()
    if saved is not None:
        check_checkpoint(experiment, mesh, checkpoints, start)
        source, data_changes = same_labels(config, checkpoints, start, source, described)
    _check_labels(config, source)
    experiment = replace(experiment, class_names=tuple(source.class_names))
    more["validation"] = make_validation(experiment, mesh, held_out, source)
    more["weights"] = weights = first_weights(experiment) if saved is None else None
    changes = distributed.broadcast_from_first(lambda: _changes(config, checkpoints, start, tell))
    if start == config.train.steps and _is_drawn(run, experiment):
        tell(_finished(run, start, changes))
        return _as_it_is(experiment, mesh, checkpoints, start, report)
    # Previews and the last pictures share a size, and so a compiled program.
    program = SampleProgram(experiment, mesh, config.sample)
    _check_memory(program)
    told = [f"data: {place}{_describe_labels(config, source)}", *getattr(weights, "lines", ())]
    with _alone(checkpoints, seen, tell):
        logger = _start_log(config, run, start, changes, data_changes, report)
        for line in [*told, *rate_change(config, checkpoints, start), *program.cautions]:
            logger.say(line)
        trainer = Trainer(program, source, described, checkpoints, logger, **more)
        return _run(trainer, start, report)


def _is_drawn(run: StoragePath, experiment: Experiment) -> bool:
    return distributed.broadcast_from_first(lambda: has_pictures(run, experiment))


def _as_it_is(
    experiment: Experiment,
    mesh: Mesh,
    checkpoints: Checkpoints,
    step: int,
    report: Callable[[str], None] | None,
) -> TrainResult:
    """Returns a finished run."""
    name = experiment.config.train.first_average
    field = f"ema.{name}"
    layout = {field: state_layout(experiment, mesh).ema[name]}
    params = checkpoints.restore(step, layout)[field]
    run = Run(checkpoints.run, step, experiment, params, name=name, mesh=mesh, report=report)
    return TrainResult(run, step, None, step)


def _run(trainer: Trainer, start: int, report: Callable[[str], None] | None) -> TrainResult:
    """Trains from step `start` on, and draws the pictures."""
    logger, preemption = trainer.logger, trainer.preemption
    try:
        with memory_errors(LESS_MEMORY):
            state, step = trainer.train(trainer.begin(start), start)
        if not trainer.should_stop():
            trainer.pictures.finish(state)
        stopped = trainer.should_stop()
        if stopped:
            logger.say(f"stopped at step {step}; run the same command again to go on")
    finally:
        trainer.profile.close()
        logger.close()
        trainer.close()
    name = trainer.config.train.first_average
    params, where = state.ema[name], {"mesh": trainer.mesh, "report": report}
    trained = Run(trainer.run, step, trainer.experiment, params, name=name, **where)
    return TrainResult(trained, step, preemption.signal if preemption and stopped else None, start)


def _ignore(line: str) -> None:
    del line


def _opened(config: Config, source: Source | None) -> tuple[Source, str]:
    """Returns the source to train on, and where it is; raises UserError if it does not fit."""
    place = "a source in memory" if source is not None else describe_place(config.data)
    source = open_source(config.data) if source is None else source
    if not hasattr(source, "gather"):
        raise UserError(
            f"source is of type {type(source).__name__}; it must be a Source, such as "
            "ArraySource(examples, labels, class_names) of ddpm_jax.data.source"
        )
    if len(source) == 0:
        raise UserError("the source has no examples; give one that has some")
    found, expected = tuple(source.shape), tuple(config.data.example_shape)
    if found != expected:
        raise UserError(
            f"the source has examples of shape {found}, and config.data says {expected}; "
            "change one of them"
        )
    _require_fitting(source)
    return source, place


def _require_fitting(source: Source) -> None:
    """Raises UserError for examples or labels of a type that the training step can't take."""
    one, names = source.gather(np.arange(1)), source.class_names
    wanted, meaning = np.float32, "coordinates"
    if is_image(tuple(source.shape)):
        wanted, meaning = np.uint8, "levels from 0 to 255"
    if one.examples.dtype != wanted:
        raise UserError(
            f"the source has examples of {one.examples.dtype}; they must be "
            f"{np.dtype(wanted).name}, {meaning}"
        )
    if names and (one.labels is None or not np.issubdtype(one.labels.dtype, np.integer)):
        have = "no labels" if one.labels is None else f"labels of {one.labels.dtype}"
        raise UserError(f"the source has {len(names)} class names and {have}; give whole numbers")
    labels = source.labels if isinstance(source, ArraySource) and names else None
    if labels is None:
        return
    if len(labels) != len(source):
        raise UserError(f"the source has {len(source)} examples and {len(labels)} labels")
    if not 0 <= labels.min() <= labels.max() < len(names):
        raise UserError(
            f"the source has labels from {labels.min()} to {labels.max()}; they must be 0 to "
            f"{len(names) - 1}, one for each class name"
        )


def _changes(
    config: Config, checkpoints: Checkpoints, step: int, report: Callable[[str], None]
) -> dict[str, tuple[Any, Any]]:
    """Returns what changed since the run's last start; raises UserError for a newer config.json."""
    path = checkpoints.run / "config.json"
    before = checkpoints.config(step) if step else config
    try:
        if path.is_file():
            before = configs.loads(path.read_bytes(), str(path))
    except configs.UnreadableConfig as error:
        report(f"{error}; it is not used")
    return configs.differences(before, config)


@contextmanager
def _alone(
    checkpoints: Checkpoints, seen: list[int], report: Callable[[str], None]
) -> Iterator[None]:
    """Locks the run's folder; raises UserError if another process saved what was not `seen`."""

    def check() -> None:
        if checkpoints.steps() != seen:
            raise UserError(
                f"another process saved in {checkpoints.run} meanwhile; run the same command again"
            )

    with exclusive(checkpoints.run, report=report, needed=distributed.is_first()):
        distributed.broadcast_from_first(check)
        require_shared(checkpoints.run)
        yield


def _finished(run: StoragePath, step: int, changes: Mapping[str, Any]) -> str:
    without = f"; without effect: {', '.join(changes)}" if changes else ""
    return f"{run} is finished, with all its {step:,} steps; to go on, raise train.steps{without}"


def _check_memory(program: SampleProgram) -> None:
    """Raises OutOfMemory if the last pictures, or state and batch alone, are more than it holds."""
    experiment, mesh = program.experiment, program.mesh
    config = experiment.config
    program.require_memory(config.sample.num, animation_size(config.data.example_shape))
    program.require_memory(config.validation.num_samples or 1)
    layout = state_layout(experiment, mesh), batch_layout(experiment, mesh)
    device = mesh.local_devices[0]
    here = len(mesh.local_devices) if device.platform == "cpu" else 1  # They share the host's.
    need = here * bytes_per_device(layout)
    require_memory(need, device_bytes(device), "the state and a batch of this config", LESS_MEMORY)


def _start_log(
    config: Config,
    run: StoragePath,
    step: int,
    changes: Mapping[str, tuple[Any, Any]],
    data_changes: Mapping[str, tuple[Any, Any]],
    report: Callable[[str], None] | None,
) -> RunLogger:
    """Writes config.json, opens the loggers, and logs what changed since the run was last here."""
    writes = distributed.is_first()
    if writes:
        with replacing(run / "config.json") as beside:
            beside.write_text(configs.dumps(config))
    logger = RunLogger(
        run,
        start=step,
        total=config.train.steps,
        loggers=config.train.loggers,
        settings=configs.flatten(config),
        report=report,
        silent=not writes,
    )
    for name, (before, after) in {**changes, **data_changes}.items():
        logger.say(f"{name}: {before!r} -> {after!r}{_consequence(config, name, step)}")
    if changes:
        logger.event(step, "config", changes=changes)
    if data_changes:
        logger.event(step, "data", changes=data_changes)
    return logger


def _consequence(config: Config, name: str, step: int) -> str:
    """Returns what a change of the data means for the run, to be added to its line."""
    if name == "data.examples":
        others = ", and others are held out" if config.validation.share else ""
        return f": each epoch has another order from step {step:,} on{others}"
    if name == "data.content":
        return f": the run goes on with other examples from step {step:,} on"
    return ""


def _describe_labels(config: Config, source: Source) -> str:
    """Returns what the labels mean, to be added to the line about the data."""
    names = source.class_names
    if not names:
        return ""
    if config.model.num_classes:
        classifies = config.diffusion.trained_objective.classifies
        idle = "train.label_dropout has no effect: a classifier is given no labels"
        more = f"; {idle}" if classifies and config.train.label_dropout else ""
        return f"; labels {describe_classes(names)}{more}"
    return f"; its {len(names)} classes are not used (model.num_classes is 0)"


def _what_must_agree(
    config: Config, run: StoragePath, described: dict[str, Any], held_out: Source | None
) -> dict[str, Any]:
    """Returns what must be equal on all processes, so that they train the same network."""
    data = {f"data.{name}": value for name, value in described.items()}
    if held_out is not None:
        other = identity.describe_source(held_out)
        data |= {f"held-out data.{name}": value for name, value in other.items()}
    ops = from_environment()
    programs = {"DDPM_JAX_OPS": ops.choice, "JAX_DEFAULT_MATMUL_PRECISION": ops.precision}
    run_facts = {"workdir": str(run), **programs, **distributed.versions(), **data}
    return {**configs.flatten(config), **run_facts}


def _check_folder(run: StoragePath) -> None:
    if run.exists() and not run.is_dir():
        raise UserError(f"the run folder {run} is a file; name a folder")
    require_path(run.absolute(), writes=True)


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
