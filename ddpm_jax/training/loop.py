"""Training from the first step, or from where it stopped, to the last one and its pictures."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import config as configs
from ddpm_jax import plots
from ddpm_jax.config import Config
from ddpm_jax.data import open_source
from ddpm_jax.data.batches import Batches
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.files import replacing
from ddpm_jax.mesh import check_batch, make_mesh, put_batch
from ddpm_jax.sampling import SampleProgram, write_samples
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.journal import Journal, read_metrics
from ddpm_jax.training.meter import Meter
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import batch_layout, jit_init, jit_train_step, state_layout
from ddpm_jax.training.stop import Stop


def train(config: Config, workdir: str | Path) -> int:
    """Trains a config in a run folder, going on from its newest good checkpoint if it has one.

    Returns the process's exit code: 0 when the last step is done or SIGTERM ended it after a save,
    130 after SIGINT. Raises UserError, before anything is written, if the config can't be trained
    here or the folder holds a run of another network.
    """
    run = Path(workdir)
    mesh = make_mesh(config.mesh.fsdp)
    check_batch(config, mesh)
    _check_folder(config, run)
    source = open_source(config.data)
    _check_labels(config, source)
    experiment = build(config)
    checkpoints = Checkpoints(run, report=print)
    step = checkpoints.newest_good() or 0
    each = config.train.steps_per_dispatch
    if step % each:
        raise UserError(
            f"train.steps_per_dispatch is {each}; it must divide step {step}, where {run} goes on"
        )
    first = jax.process_index() == 0
    if first:
        _describe(config, run)
    journal = Journal(run, start=step, total=max(step, config.train.steps), silent=not first)
    session = _Session(experiment, mesh, source, checkpoints, journal, run)
    try:
        with Stop() as stop:
            state, step = session.steps(session.begin(step), step, stop)
        if stop.signal is None:
            session.finish(state)
            return 0
        journal.say(f"stopped at step {step}; run the same command again to go on")
        return stop.exit_code
    finally:
        journal.close()
        checkpoints.close()


def _check_folder(config: Config, run: Path) -> None:
    path = run / "config.json"
    if run.exists() and not run.is_dir():
        raise UserError(f"--workdir {run} is a file; name a folder")
    if not path.is_file():
        return
    changed = configs.breaking(configs.loads(path.read_text(), str(path)), config)
    if changed:
        name, (old, new) = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"{run} holds a run with {name} = {old!r}, and this config has {new!r}{more}; "
            "choose another --workdir, or put the setting back"
        )


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


def _describe(config: Config, run: Path) -> None:
    """Writes config.json and prints what changed since the last time, if anything."""
    path = run / "config.json"
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir {run} can't be made ({error.strerror}); choose another"
        ) from None
    if path.is_file():
        old = configs.loads(path.read_text(), str(path))
        for name, (before, after) in configs.differences(old, config).items():
            print(f"{name}: {before!r} -> {after!r}")
    with replacing(path) as beside:
        beside.write_text(configs.dumps(config))


class _Session:
    """What the loop works with, on every process alike."""

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        source: Source,
        checkpoints: Checkpoints,
        journal: Journal,
        run: Path,
    ):
        self.experiment, self.mesh, self.source = experiment, mesh, source
        self.checkpoints, self.journal, self.run = checkpoints, journal, run
        self.config = experiment.config
        # Previews and the last pictures are of one size, and so of one compiled program.
        self.program = SampleProgram(experiment, mesh, self.config.sample)

    def begin(self, step: int) -> TrainState:
        """Restores the state of `step`, or draws the first one."""
        layout = state_layout(self.experiment, self.mesh)
        count = sum(leaf.size for leaf in jax.tree.leaves(layout.params))
        self.journal.say(
            f"{self.run}: {count:,} parameters, {len(self.source):,} examples, "
            f"{self.mesh.size} {jax.devices()[0].platform} device(s)"
        )
        if step == 0:
            return jit_init(self.experiment, self.mesh)()
        self.journal.say(f"going on from step {step:,}")
        return self.checkpoints.restore(step, layout)

    def steps(self, state: TrainState, step: int, stop: Stop) -> tuple[TrainState, int]:
        """Runs to the last step, or to the end of the dispatch in which a signal came."""
        train = self.config.train
        if step >= train.steps:
            return state, step
        saved = step
        compiled = self._compile()
        each = train.steps_per_dispatch
        meter = Meter(self.experiment, self.journal)
        with Batches(
            self.source,
            seed=self.config.seed,
            batch_size=train.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ) as batches:
            meter.restart()
            while step < train.steps and stop.signal is None:
                with meter.waiting():
                    batch = put_batch(self._gather(batches, step), self.mesh, leading=int(each > 1))
                state, metrics = compiled(state, batch)
                step += each
                meter.add(step, metrics)
                self.journal.advance(each)
                if train.preview_every and step % train.preview_every == 0:
                    with meter.paused():
                        self._preview(state, step)
                if step % train.save_every == 0:
                    with meter.paused():
                        self._save(state, step)
                    saved = step
        meter.flush()
        if saved != step:
            self._save(state, step)
        self.checkpoints.wait()
        return state, step

    def finish(self, state: TrainState) -> None:
        """Draws what people want to see of a finished run: samples, their film, the loss."""
        self.journal.say("drawing samples.png, denoising.gif and loss.png")
        num = self.config.sample.num
        drawn = self.program(state.ema, num, seed=self.config.seed, frames_of=min(num, 64))
        if jax.process_index() == 0:
            write_samples(self.run / "samples.png", drawn)
            write_samples(self.run / "denoising.gif", drawn)
            plots.loss(self.run / "loss.png", read_metrics(self.run / "metrics.jsonl"))
        self.journal.say(f"done; draw more with: ddpm sample {self.run}")

    def _compile(self) -> Any:
        begun = time.monotonic()
        self.journal.say("compiling the training step")
        step = jit_train_step(self.experiment, self.mesh)
        layout = state_layout(self.experiment, self.mesh)
        compiled = step.lower(layout, batch_layout(self.experiment, self.mesh)).compile()
        self.journal.say(f"compiled in {time.monotonic() - begun:.1f} s")
        return compiled

    def _gather(self, batches: Batches, step: int) -> Any:
        each = self.config.train.steps_per_dispatch
        rows = [batches(n) for n in range(step, step + each)]
        if not self.experiment.num_classes:
            rows = [batch._replace(labels=None) for batch in rows]
        return rows[0] if each == 1 else jax.tree.map(lambda *x: np.stack(x), *rows)

    def _save(self, state: TrainState, step: int) -> None:
        train = self.config.train
        self.checkpoints.save(
            step, state, self.config, keep=train.keep, keep_every=train.keep_every
        )

    def _preview(self, state: TrainState, step: int) -> None:
        drawn = self.program(state.ema, self.config.sample.num, seed=self.config.seed)
        if jax.process_index() == 0:
            path = self.run / "samples" / f"{step:08}.png"
            path.parent.mkdir(exist_ok=True)
            write_samples(path, drawn)
            self.journal.picture(step, "samples", path)
