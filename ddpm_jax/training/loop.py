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
from ddpm_jax.data import open_source, resolve
from ddpm_jax.data.batches import Batches
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.files import exclusive, replacing
from ddpm_jax.mesh import check_batch, make_mesh, put_batch
from ddpm_jax.sampling import SampleProgram, film_size, write_samples
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
    run, config = Path(workdir), resolve(config)
    mesh = make_mesh(config.mesh.fsdp)
    check_batch(config, mesh)
    if run.exists() and not run.is_dir():
        raise UserError(f"--workdir {run} is a file; name a folder")
    source = open_source(config.data)
    _check_labels(config, source)
    experiment = build(config)
    # Previews and the last pictures are of one size, and so of one compiled program.
    program = SampleProgram(experiment, mesh, config.sample)
    checkpoints = Checkpoints(run, report=print)
    step = checkpoints.newest_good() or 0
    if step:
        _check_resume(config, checkpoints, step)
    first = jax.process_index() == 0
    with exclusive(run, needed=first):
        if first:
            _describe(config, run)
        total = max(step, config.train.steps)
        journal = Journal(run, start=step, total=total, silent=not first)
        session = _Session(experiment, mesh, source, checkpoints, journal, program)
        try:
            with Stop(journal.say) as stop:
                state, step = session.steps(session.begin(step), step, stop)
            if stop.signal is None:
                session.finish(state)
                return 0
            journal.say(f"stopped at step {step}; run the same command again to go on")
            return stop.exit_code
        finally:
            journal.close()
            checkpoints.close()


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
        program: SampleProgram,
    ):
        self.experiment, self.mesh, self.source = experiment, mesh, source
        self.checkpoints, self.journal, self.program = checkpoints, journal, program
        self.config, self.run = experiment.config, checkpoints.run

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
        meter = Meter(train, self.journal)
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
                # Saved first: a preview may take longer than a scheduler waits after its signal.
                if step % train.save_every == 0:
                    self._save(state, step, meter)
                    saved = step
                if train.preview_every and step % train.preview_every == 0:
                    with meter.paused():
                        self._preview(state, step, stop)
        meter.flush()
        if saved != step:
            self._save(state, step, meter)
        self.checkpoints.wait()
        return state, step

    def finish(self, state: TrainState) -> None:
        """Draws what people want to see of a finished run: samples, their film, the loss."""
        self.journal.say("drawing samples.png, denoising.gif and loss.png")
        drawn = self.program(
            state.ema,
            self.config.sample.num,
            seed=self.config.seed,
            frames_of=film_size(self.config.data.example_shape),
        )
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

    def _save(self, state: TrainState, step: int, meter: Meter) -> None:
        meter.check()
        train = self.config.train
        with meter.paused():
            self.checkpoints.save(
                step, state, self.config, keep=train.keep, keep_every=train.keep_every
            )

    def _preview(self, state: TrainState, step: int, stop: Stop) -> None:
        def interrupt(done: int, total: int) -> None:
            # One process alone must not leave a program that all of them run.
            if stop.signal is not None and jax.process_count() == 1:
                raise _Interrupted

        try:
            drawn = self.program(
                state.ema, self.config.sample.num, seed=self.config.seed, progress=interrupt
            )
        except _Interrupted:
            return
        if jax.process_index() == 0:
            path = self.run / "samples" / f"{step:08}.png"
            path.parent.mkdir(exist_ok=True)
            write_samples(path, drawn)
            self.journal.picture(step, "samples", path)


class _Interrupted(Exception):
    """A preview was left for a signal's sake."""
