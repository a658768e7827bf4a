"""The steps of a run, its saves and previews, and what it does when either goes wrong.

Going back (`train.on_nonfinite` rollback). A run is a pure function of (config, seed, step):
trained again from an older checkpoint it would meet the same numbers, and leaving out the bad steps
alone is what skip does. So what is passed over is the whole stretch between two scheduled saves in
which the steps went bad: the run goes on at its end with the parameters of its beginning, and the
batches in between, which led there, are never seen. Beginning and end follow from the steps that were bad
and from `save_every`, not from which checkpoints happen to be on disk; where the beginning isn't,
it is trained again from an older one. So a killed run still ends as an unbroken one: started again
before the stretch it meets the same bad steps, and after it their outcome, saved at its end. A run
that goes bad in two stretches in a row is not helped by going back, and stops.
"""

import time
from typing import Any

import jax
import numpy as np

from ddpm_jax import plots
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.data.batches import Batches
from ddpm_jax.data.identity import described
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed import first, first_says
from ddpm_jax.runtime.mesh import local_rows, put_batch
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.files import animation_size, write_samples
from ddpm_jax.training.diagnosis import Diagnosis, diagnose
from ddpm_jax.training.logging.run_logger import RunLogger
from ddpm_jax.training.preemption import PreemptionHandler
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import batch_layout, jit_init, jit_train_step, state_layout
from ddpm_jax.training.step_metrics import StepMetrics


class Trainer:
    """What the loop works with, on every process alike."""

    def __init__(
        self,
        program: SampleProgram,
        source: Source,
        checkpoints: Checkpoints,
        journal: RunLogger,
        stop: PreemptionHandler,
    ):
        """`program` draws the pictures, and says what is trained and on which devices."""
        self.program, self.experiment, self.mesh = program, program.experiment, program.mesh
        self.source, self.checkpoints, self.journal = source, checkpoints, journal
        self.config, self.run, self.stop = self.experiment.config, checkpoints.run, stop
        self._rows = local_rows(self.mesh, self.config.train.batch_size)
        self._saved: int | None = None
        self._passed: dict[int, int] = {}
        """Where stretches that went bad begin, and where they end."""

    def begin(self, step: int) -> TrainState:
        """Restores the state of `step`, or draws the first one."""
        layout = state_layout(self.experiment, self.mesh)
        count = sum(leaf.size for leaf in jax.tree.leaves(layout.params))
        self.journal.say(
            f"{self.run}: {count:,} parameters, {len(self.source):,} examples, "
            f"{self.mesh.size} {jax.devices()[0].platform} device(s)"
        )
        if step:
            self.journal.say(f"going on from step {step:,}")
        return self._state(step)

    def _state(self, step: int) -> TrainState:
        self._saved = step
        if step == 0:
            return jit_init(self.experiment, self.mesh)()
        return self.checkpoints.restore(step, state_layout(self.experiment, self.mesh))

    def steps(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """Runs to the last step, or to the end of the dispatch in which a signal came.

        Raises UserError if too many steps in a row were bad, or the last state can't be saved.
        """
        train = self.config.train
        if step >= train.steps:
            return state, step
        self._compiled = self._compile()
        self._meter = StepMetrics(train, self.journal)
        with Batches(
            self.source, seed=self.config.seed, batch_size=train.batch_size, rows=self._rows
        ) as batches:
            state, step = self._march(state, step, batches)
            while self._meter.broken:
                state, step = self._march(*self._recover(state, batches), batches)
        self._meter.flush()
        self.checkpoints.join()
        self._report_save("trying once more")
        if self._saved != step:
            self._save(state, step)
            self._end_save(step)
        return state, step

    def _march(self, state: TrainState, step: int, batches: Batches) -> tuple[TrainState, int]:
        """Goes on until the last step, a signal, or too many bad steps in a row."""
        train, meter = self.config.train, self._meter
        while step < train.steps and not meter.broken and not self.stop.reached():
            if step in self._passed:
                state, step = self._pass_over(state, step)
            else:
                state, step = self._dispatch(state, step, batches)
            # Saved first: a preview may take longer than a scheduler waits after its signal.
            if step % train.save_every == 0:
                meter.settle()
                # What follows a bad step may be what it was that failed: no good place to go back.
                if not meter.bad:
                    self._save(state, step)
            self._report_save("training goes on, and tries again at the next save")
            due = train.preview_every and step % train.preview_every == 0
            if due and not meter.broken:
                with meter.paused():
                    self._preview(state, step)
        meter.settle()
        return state, step

    def _dispatch(self, state: TrainState, step: int, batches: Batches) -> tuple[TrainState, int]:
        each = self.config.train.steps_per_dispatch
        with self._meter.waiting():
            rows = [self._batch(batches, n) for n in range(step, step + each)]
            batch = rows[0] if each == 1 else jax.tree.map(lambda *x: np.stack(x), *rows)
            batch = self._put(batch, leading=int(each > 1))
        state, metrics = self._compiled(state, batch)
        self._meter.add(step + each, metrics)
        self.journal.advance(each)
        return state, step + each

    def _batch(self, batches: Batches, step: int) -> Any:
        batch = batches(step)
        return batch if self.experiment.num_classes else batch._replace(labels=None)

    def _put(self, batch: Any, *, leading: int = 0) -> Any:
        size = self.config.train.batch_size
        return put_batch(batch, self.mesh, rows=self._rows, size=size, leading=leading)

    def _compile(self) -> Any:
        begun = time.monotonic()
        self.journal.say("compiling the training step")
        step = jit_train_step(self.experiment, self.mesh)
        layout = state_layout(self.experiment, self.mesh)
        compiled = step.lower(layout, batch_layout(self.experiment, self.mesh)).compile()
        self.journal.say(f"compiled in {time.monotonic() - begun:.1f} s")
        return compiled

    # --- bad steps ---

    def _recover(self, state: TrainState, batches: Batches) -> tuple[TrainState, int]:
        """Tells what went wrong, then goes back if that is wished and can help.

        The state stands where the bad steps were met, with their parameters. Raises UserError where
        the run ends here.
        """
        train = self.config.train
        done, bad = int(state.step), int(state.bad)
        first = done - bad
        self.checkpoints.join()
        batch = self._put(self._batch(batches, first))
        found = diagnose(self.experiment, self.mesh, state.params, batch, first)
        for line in found.lines():
            self.journal.say(line)
        self.journal.event(done, "report", bad=bad, **found.plain())
        back = (first - 1) // train.save_every * train.save_every
        to = min(train.steps, -(-done // train.save_every) * train.save_every)
        if train.on_nonfinite != "rollback" or first == 0 or back in self._landings():
            self._give_up(found, bad)
        self._passed[back] = to
        self.journal.event(to, "rollback", back=back)
        self.journal.say(
            f"{bad} bad step(s) in a row from step {first}: going back to step {back}, "
            f"and passing over all up to step {to}"
        )
        at = first_says(lambda: self.checkpoints.newest_good(at_most=back) or 0)
        if at < back:
            self.journal.say(f"step {back} is not on disk: training it again from step {at}")
        self.journal.rewind(at)
        self._meter.restart()
        # Gone first: no device has room for two states.
        jax.tree.map(lambda leaf: leaf.delete(), state)
        return self._state(at), at

    def _landings(self) -> set[int]:
        """Where the run already went on after a stretch that was passed over, restarts included."""

        def before() -> list[int]:
            events = self.journal.events()
            return [row["step"] for row in events if row.get("event") == "rollback"]

        return {*first_says(before), *self._passed.values()}

    def _give_up(self, found: Diagnosis, bad: int) -> None:
        many = f", nor at the {bad - 1} after it" if bad > 1 else ""
        newest = first_says(lambda: max(self.checkpoints.steps(), default=None))
        where = "there is no checkpoint" if newest is None else f"the newest checkpoint is {newest}"
        what = "gradient" if np.isfinite(found.loss) and not found.data else "loss"
        raise UserError(
            f"the {what} is not finite at step {found.step}{many}: {found.summary}; {where}: mend "
            "the data, lower --optimizer.learning_rate or use --model.dtype float32, and run again"
        )

    def _pass_over(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """The state of a stretch's beginning, at its end."""
        to = self._passed[step]
        self._meter.flush()
        self._meter.restart()
        self.journal.advance(to - step)

        def number(value: int, like: jax.Array) -> jax.Array:
            return jax.device_put(np.asarray(value, like.dtype), like.sharding)

        return state._replace(step=number(to, state.step), bad=number(0, state.bad)), to

    # --- files ---

    def _save(self, state: TrainState, step: int) -> None:
        train = self.config.train
        # In the middle of bad steps, older checkpoints may be needed to go back to.
        keep = None if self._meter.bad else train.keep
        with self._meter.paused():
            self.checkpoints.join()
            self._report_save(f"trying again at step {step}")
            self.journal.flush()
            self.checkpoints.save(
                step,
                state,
                self.config,
                keep=keep,
                keep_every=train.keep_every,
                data=described(self.source),
                along=self.journal.put,
            )
        self._saved = step

    def _report_save(self, then: str) -> None:
        """Says so if the last save is known to have failed."""
        reason = self.checkpoints.problem()
        if reason is not None and self._saved is not None:
            self.journal.say(
                f"the checkpoint of step {self._saved} could not be written ({reason}); "
                f"older ones are as they were; {then}"
            )
            self.journal.event(self._saved, "save failed", reason=reason)
            self._saved = None

    def _end_save(self, step: int) -> None:
        try:
            self.checkpoints.wait()
        except UserError as error:
            newest = first_says(lambda: max(self.checkpoints.steps(), default=None))
            have = "there is none" if newest is None else f"the newest there is of step {newest}"
            why = f"stopped at step {step} with its state unsaved, and {have}"
            raise UserError(f"{why}: {error}") from None

    def _preview(self, state: TrainState, step: int) -> None:
        try:
            drawn = self.program(
                state.ema, self.config.sample.num, seed=self.config.seed, progress=self._interrupt
            )
            if first():
                path = self.run / "samples" / f"{step:08}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_samples(path, drawn)
                self.journal.picture(step, "samples", path)
        except _Interrupted:
            return
        except (OSError, UserError) as error:
            self.journal.say(f"the preview of step {step} was not written: {error}")

    def finish(self, state: TrainState) -> None:
        """Draws what people want to see of a finished run: samples, their film, the loss."""
        self.journal.say("drawing samples.png, denoising.gif and loss.png")
        try:
            drawn = self.program(
                state.ema,
                self.config.sample.num,
                seed=self.config.seed,
                num_trajectories=animation_size(self.config.data.example_shape),
                progress=self._interrupt,
            )
        except _Interrupted:
            return
        if first():
            write_samples(self.run / "samples.png", drawn)
            write_samples(self.run / "denoising.gif", drawn)
            plots.loss(self.run / "loss.png", self.journal.rows())
        self.journal.say(f"done; draw more with: ddpm sample {self.run}")

    def _interrupt(self, done: int, total: int) -> None:
        if self.stop.reached():
            raise _Interrupted


class _Interrupted(Exception):
    """Pictures were left for a signal's sake."""
