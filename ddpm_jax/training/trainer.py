"""The training loop: its steps, saves and previews, and what it does when one of them fails.

Rollback (`train.on_nonfinite`). A run is a pure function of (config, seed, step): trained again
from an older checkpoint it would compute the same numbers. The policy `skip` already leaves out the
non-finite steps alone. So a rollback leaves out the whole interval between two scheduled saves that
contains these steps. The run goes on at the end of the interval with the parameters of its
beginning, and never sees the batches in between. The interval follows from the step numbers and
`save_every`, not from the checkpoints on disk; if the one at its beginning is missing, the run is
trained again from an older one. So a run that was killed ends like one that was not. If it restarts
before the interval, it computes the same steps; if after it, it finds the state saved at its end.
If a run becomes non-finite in two intervals in a row, rolling back does not help, and the run ends.
"""

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ddpm_jax.checkpoints.best import Best
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.snapshots import save_snapshot, snapshots_of
from ddpm_jax.config import describe_shown
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed import broadcast_from_first, is_first
from ddpm_jax.runtime.memory import device_bytes, planned_bytes, require_memory
from ddpm_jax.runtime.mesh import bytes_per_device
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.training.diagnosis import Diagnosis, diagnose
from ddpm_jax.training.feed import Feed
from ddpm_jax.training.logging.run_logger import RunLogger
from ddpm_jax.training.pictures import Interrupted, Pictures
from ddpm_jax.training.preemption import PreemptionHandler
from ddpm_jax.training.profiling import NO_PROFILE, Profile
from ddpm_jax.training.starting import FirstWeights, begin_state
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import (
    jit_train_step,
    state_layout,
    step_inputs,
    step_layouts,
)
from ddpm_jax.training.step_metrics import StepMetrics
from ddpm_jax.training.validation import LOSS, NOTHING, Validation

LESS_MEMORY = (
    "lower train.batch_size, raise train.gradient_accumulation_steps or mesh.fsdp, or choose a "
    "smaller network"
)


class Trainer:
    """Trains one run; every process of it runs the same loop."""

    def __init__(
        self,
        program: SampleProgram,
        source: Source,
        described: dict[str, Any],
        checkpoints: Checkpoints,
        logger: RunLogger,
        *,
        preemption: PreemptionHandler | None,
        validation: Validation = NOTHING,
        profile: Profile = NO_PROFILE,
        weights: FirstWeights | None = None,
    ):
        """`program` draws the previews, and holds the experiment and the devices.

        `described` is what each checkpoint records about the data. `preemption` is asked after
        every dispatch whether to stop; None never stops. `validation` measures, `profile` traces.
        `weights` are those to start from.
        """
        self.program, self.experiment, self.mesh = program, program.experiment, program.mesh
        self.source, self.checkpoints, self.logger = source, checkpoints, logger
        self.config, self.run, self.profile = self.experiment.config, checkpoints.run, profile
        self.snapshots = snapshots_of(self.run, report=logger.say)
        self.pictures = Pictures(program, source, self.run, logger, self.should_stop)
        self.described, self.preemption, self.validation = described, preemption, validation
        self.weights = weights
        self._saved: int | None = None
        self._skipped: dict[int, int] = {}
        """The first step of each interval that a rollback leaves out, and its end."""

    def should_stop(self) -> bool:
        """Returns whether to save and end now; the answer is the same on every process."""
        return self.preemption is not None and self.preemption.reached()

    def begin(self, step: int) -> TrainState:
        """Restores the state of `step`, or draws the initial one."""
        layout = state_layout(self.experiment, self.mesh)
        count = sum(leaf.size for leaf in jax.tree.leaves(layout.params))
        self.logger.say(
            f"{self.run}: {count:,} parameters, {len(self.source):,} examples, "
            f"{self.mesh.size} {jax.devices()[0].platform} device(s)"
        )
        if shown := describe_shown(self.config.data):
            self.logger.say(shown)
        if step:
            self.logger.say(f"going on from step {step:,}")
        return self._load(step)

    def close(self) -> None:
        """Waits for the saves under way."""
        self.snapshots.close()
        self.checkpoints.close()

    def _load(self, step: int) -> TrainState:
        self._saved = step
        self.snapshots.join()
        if is_first():
            self.snapshots.remove_after(step)
        if is_first() and self.config.validation.keep_best is not None:
            self._take_back_best(step)
        layout = state_layout(self.experiment, self.mesh)
        if step:
            return self.checkpoints.restore(step, layout)
        weights, self.weights = self.weights, None
        return begin_state(self.experiment, self.mesh, self.checkpoints, self.described, weights)

    def train(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """Trains to the last step, or to the end of the dispatch in which it should stop.

        Raises UserError if too many steps in a row are not finite, or the last state can't be
        saved.
        """
        train = self.config.train
        self._metrics = StepMetrics(train, self.logger)
        if step < train.steps:
            self._compiled = self._compile()
        self._catch_up(state, step)
        if step >= train.steps:
            return state, step
        with Feed(self.experiment, self.mesh, self.source) as feed:
            state, step = self._run_until_due(state, step, feed)
            while self._metrics.limit_reached:
                state, step = self._run_until_due(*self._recover(state, feed), feed)
        self._metrics.flush()
        self.checkpoints.join()
        self._report_save("trying once more")
        if self._saved != step:
            self._save(state, step)
            self._end_save(step)
        return state, step

    def _run_until_due(self, state: TrainState, step: int, feed: Feed) -> tuple[TrainState, int]:
        """Runs to the last step, a request to stop, or the limit of non-finite steps in a row."""
        train, metrics = self.config.train, self._metrics
        while step < train.steps and not metrics.limit_reached and not self.should_stop():
            if step in self._skipped:
                state, step = self._skip_interval(state, step)
            else:
                state, step = self._dispatch(state, step, feed)
            self._keep_snapshot(state, step)
            self._validate(state, step)
            # Saved first: a preview may take longer than a scheduler waits after its signal.
            if step % train.save_every == 0 and self._saved != step:
                metrics.settle()
                # After a non-finite step the state may already be corrupt: do not save it.
                if not metrics.nonfinite:
                    self._save(state, step)
            self._report_save("training goes on, and tries again at the next save")
            self._preview(state, step)
        metrics.settle()
        return state, step

    def _dispatch(self, state: TrainState, step: int, feed: Feed) -> tuple[TrainState, int]:
        each = self.config.train.steps_per_dispatch
        with self._metrics.waiting():
            batch = feed(step)
        with self.profile.step(step):
            state, metrics = self._compiled(state, batch, step_inputs(self.experiment, step))
        self.profile.made(step + each, state)
        self._metrics.add(step + each, metrics)
        self.logger.advance(step + each)
        return state, step + each

    def _compile(self) -> Any:
        begun = time.monotonic()
        self.logger.say("compiling the training step")
        step = jit_train_step(self.experiment, self.mesh)
        layouts = step_layouts(self.experiment, self.mesh)
        lowered = step.lower(*layouts)
        # Whatever the run has made is on disk, so a signal need not wait for the compiler.
        with self.preemption.at_once() if self.preemption is not None else nullcontext():
            compiled = lowered.compile()
            if self.validation.loss is not None:
                self.validation.loss.compile()
        if self.preemption is not None:
            self.preemption.begin()
        self.logger.say(f"compiled in {time.monotonic() - begun:.1f} s")
        # On a CPU Linux may kill a process that takes too much, so nothing later could say it.
        need = (planned_bytes(compiled) or 0) - bytes_per_device(layouts[0])
        have = device_bytes(self.mesh.local_devices[0])
        require_memory(need, have, "the activations of a training step", LESS_MEMORY)
        return compiled

    # --- non-finite steps ---

    def _recover(self, state: TrainState, feed: Feed) -> tuple[TrainState, int]:
        """Reports what went wrong, then rolls back if the policy says so and it can help.

        The state still has the parameters of the first non-finite step. Raises UserError if the run
        ends here.
        """
        train = self.config.train
        done, nonfinite = int(state.step), int(state.nonfinite)
        first_step = done - nonfinite
        self.checkpoints.join()
        batch = feed.single(first_step)
        found = diagnose(self.experiment, self.mesh, state, batch, first_step)
        for line in found.lines():
            self.logger.say(line)
        self.logger.event(done, "report", nonfinite=nonfinite, **found.plain())
        back = (first_step - 1) // train.save_every * train.save_every
        to = min(train.steps, -(-done // train.save_every) * train.save_every)
        if train.on_nonfinite != "rollback" or first_step == 0 or back in self._rollback_ends():
            self._give_up(found, nonfinite)
        self._skipped[back] = to
        self.logger.event(to, "rollback", back=back)
        self.logger.say(
            f"{nonfinite} non-finite step(s) in a row from step {first_step}: rolling back to step "
            f"{back}, and leaving out all steps up to {to}"
        )
        at = broadcast_from_first(lambda: self.checkpoints.newest_good(at_most=back) or 0)
        if at < back:
            self.logger.say(f"step {back} is not on disk: training it again from step {at}")
        self.logger.rewind(at)
        self._metrics.restart()
        # Freed first, because a device may have no room for two states.
        jax.tree.map(lambda leaf: leaf.delete(), state)
        return self._load(at), at

    def _rollback_ends(self) -> set[int]:
        """Returns the steps at which the run went on after each rollback, restarts included."""

        def logged() -> list[int]:
            events = self.logger.events()
            return [row["step"] for row in events if row.get("event") == "rollback"]

        return {*broadcast_from_first(logged), *self._skipped.values()}

    def _give_up(self, found: Diagnosis, nonfinite: int) -> None:
        many = f", nor at the {nonfinite - 1} after it" if nonfinite > 1 else ""
        newest = broadcast_from_first(lambda: max(self.checkpoints.steps(), default=None))
        where = "there is no checkpoint" if newest is None else f"the newest checkpoint is {newest}"
        what = "gradient" if np.isfinite(found.loss) and not found.data else "loss"
        raise UserError(
            f"the {what} is not finite at step {found.step}{many}: {found.summary}; {where}: fix "
            "the data, lower optimizer.learning_rate or set model.dtype to float32, and run again"
        )

    def _skip_interval(self, state: TrainState, step: int) -> tuple[TrainState, int]:
        """Turns the state at the beginning of a skipped interval into the state at its end."""
        to = self._skipped[step]
        self._metrics.flush()
        self._metrics.restart()
        self.logger.advance(to)

        def number(value: int, like: jax.Array) -> jax.Array:
            return jax.device_put(np.asarray(value, like.dtype), like.sharding)

        skipped = {"step": number(to, state.step), "nonfinite": number(0, state.nonfinite)}
        return state._replace(**skipped), to

    # --- validation ---

    def _validate(self, state: TrainState, step: int) -> None:
        """Computes and logs the validation loss if it is due."""
        every, loss = self.config.validation.every, self.validation.loss
        if loss is None or every is None or step % every:
            return
        self._metrics.settle()
        if self._metrics.limit_reached:
            return
        with self._metrics.paused():
            value = loss(state.ema[self.config.train.first_average])
        self.logger.row(step, {LOSS: value})
        self._keep_if_best(state, step, {LOSS: value})

    def _keep_if_best(self, state: TrainState, step: int, values: Mapping[str, float]) -> None:
        """Saves the state, or marks its checkpoint, if a value is better than all before."""
        name = self.config.validation.keep_best
        value = values.get(name, math.nan) if name is not None else math.nan
        if name is None or not math.isfinite(value) or self._metrics.nonfinite:
            return
        with self._metrics.paused():
            self.checkpoints.join()
        self._report_save(f"trying again at step {step}")

        def is_best() -> bool:
            best = self.checkpoints.best()
            return best is None or self.validation.is_better(name, value, best.value)

        if not broadcast_from_first(is_best):
            return
        train = self.config.train
        ends = (train.save_every, train.keep_every or train.steps, train.steps)
        scheduled = any(step % each == 0 for each in ends)
        best = Best(step, name, value, scheduled)
        if self._saved != step:
            self._save(state, step, best)
        elif is_first():
            self._mark_best(best)

    def _catch_up(self, state: TrainState, step: int) -> None:
        """Computes or marks what a kill after the save of this step left undone."""
        if step == 0:
            return

        def logged() -> dict[str, float]:
            rows = [row for row in self.logger.rows() if row["step"] == step]
            return {name: value for row in rows for name, value in row.items()}

        values = broadcast_from_first(logged)
        if LOSS not in values:
            self._validate(state, step)
        self._keep_if_best(state, step, values)
        metrics = self.validation.metrics
        measured = metrics is None or bool(values.keys() & metrics.better)
        if not (measured and self.pictures.has_preview(step)):
            self._preview(state, step)

    def _take_back_best(self, step: int) -> None:
        """Unmarks a best checkpoint that the run did not come through, or was chosen otherwise."""
        best = self.checkpoints.best()
        if best is None:
            return
        own, same = self.config.validation, False
        with suppress(OSError, UserError):
            before = self.checkpoints.config(best.step)
            chosen = replace(before.validation, every=own.every, metrics=own.metrics)
            same = own == chosen and before.train.first_average == self.config.train.first_average
        if best.step > step or not same:
            self._mark_best(None)
            self.logger.say(
                f"checkpoint {best.step} is no longer the best: the run went back before it, or "
                "what validation measures has changed"
            )

    def _mark_best(self, best: Best | None) -> None:
        try:
            self.checkpoints.mark_best(best)
        except OSError as error:
            self.logger.say(f"the best checkpoint can't be marked ({error}); training goes on")

    # --- files ---

    def _save(self, state: TrainState, step: int, best: Best | None = None) -> None:
        train = self.config.train
        # During non-finite steps, a rollback may need older checkpoints.
        keep = None if self._metrics.nonfinite else train.keep
        with self._metrics.paused():
            self._join_saves(step)
            self.logger.flush()
            self.checkpoints.save(
                step,
                state,
                self.config,
                keep=keep,
                keep_every=train.keep_every,
                data=self.described,
                before_commit=self.logger.put,
                best=best,
            )
        self._saved = step

    def _keep_snapshot(self, state: TrainState, step: int) -> None:
        """Saves a snapshot if it is due, before any checkpoint of this step or a later one."""
        every = self.config.train.snapshot_every
        if every is None or step % every:
            return
        self._metrics.settle()
        if self._metrics.limit_reached:
            return
        with self._metrics.paused():
            self._join_saves(step)
            save_snapshot(self.snapshots, step, state.ema, self.config, self.described)

    def _join_saves(self, step: int) -> None:
        """Waits for the saves under way, as processes make one at a time; reports failures."""
        self.snapshots.join()
        reason = self.snapshots.problem()
        if reason is not None:
            self.logger.say(f"a snapshot was not written ({reason}); lengths do without it")
        self.checkpoints.join()
        self._report_save(f"trying again at step {step}")

    def _report_save(self, then: str) -> None:
        """Reports the last save if it is known to have failed."""
        reason = self.checkpoints.problem()
        if reason is not None and self._saved is not None:
            self.logger.say(
                f"the checkpoint of step {self._saved} could not be written ({reason}); "
                f"older ones are as they were; {then}"
            )
            self.logger.event(self._saved, "save failed", reason=reason)
            self._saved = None

    def _end_save(self, step: int) -> None:
        try:
            self.checkpoints.wait()
        except UserError as error:
            newest = broadcast_from_first(lambda: max(self.checkpoints.steps(), default=None))
            have = "there is none" if newest is None else f"the newest one is of step {newest}"
            why = f"stopped at step {step} with its state unsaved, and {have}"
            raise UserError(f"{why}: {error}") from None

    def _preview(self, state: TrainState, step: int) -> None:
        """Draws a preview if it is due, and logs its metrics."""
        every, metrics = self.config.train.preview_every, self.validation.metrics
        if not every or step % every or self.experiment.classifies:
            return
        shown, values = self.config.sample.num, {}
        if metrics is not None:
            self._metrics.settle()
        if self._metrics.limit_reached:
            return
        with self._metrics.paused():
            try:
                num = shown if metrics is None else max(shown, metrics.num)
                drawn = self.pictures.draw(state, num)
                self.pictures.write_preview(step, drawn, shown)
                values = {} if metrics is None else metrics(drawn)
            except Interrupted:
                return
            except UserError as error:
                self.logger.say(f"the preview of step {step} is not complete: {error}")
        if values:
            self.logger.row(step, values)
            self._keep_if_best(state, step, values)
