"""What a step costs and gives, measured without making the device wait."""

import time
from collections import deque
from typing import Any

import jax
import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment
from ddpm_jax.training.journal import Journal

# How many dispatches the host may run ahead: enough to hide it, few enough to stop promptly.
_AHEAD = 2


class Meter:
    """Averages over the rows of the journal; reads the device one dispatch late, never sooner."""

    def __init__(self, experiment: Experiment, journal: Journal):
        self._experiment, self._journal = experiment, journal
        self._every = experiment.config.train.log_every
        self._flying: deque[Any] = deque()
        self._interval: list[tuple[int, Any]] = []
        self._due: list[tuple[int, Any]] = []
        self.restart()

    def restart(self) -> None:
        """Begins an interval now."""
        self._since, self._away, self._waited = time.monotonic(), 0.0, 0.0

    def add(self, step: int, metrics: Any) -> None:
        """Takes the metrics of a dispatch that may still be running."""
        self._flying.append(metrics)
        if len(self._flying) > _AHEAD:
            jax.block_until_ready(self._flying.popleft())
        if self._due:
            self._write()
        self._interval.append((step, metrics))
        if step % self._every == 0:
            self._due, self._interval = self._interval, []

    def flush(self) -> None:
        """Writes what has not been written yet."""
        self._due += self._interval
        self._interval = []
        if self._due:
            self._write()

    def waiting(self) -> "_Timer":
        """Times what is spent waiting for data."""
        return _Timer(self, "_waited")

    def paused(self) -> "_Timer":
        """Times what is no training: it does not count against images/s."""
        return _Timer(self, "_away")

    def _write(self) -> None:
        due, self._due = self._due, []
        step = due[-1][0]
        fetched = jax.device_get([metrics for _, metrics in due])
        means = {name: float(np.mean([row[name] for row in fetched])) for name in fetched[0]}
        spent = max(1e-9, time.monotonic() - self._since - self._away)
        config = self._experiment.config.train
        images = config.batch_size * config.steps_per_dispatch * len(due)
        row = {
            **means,
            "learning_rate": np.asarray(self._experiment.learning_rate(step - 1)).item(),
            "images_per_s": images / spent,
            "data_wait": self._waited / spent,
        }
        self._journal.row(step, row)
        self.restart()
        if not np.isfinite(means["loss"]):
            raise UserError(
                f"the loss is {means['loss']} at step {step}; nothing was saved since: lower "
                "--optimizer.learning_rate, or use --model.dtype float32, and run again"
            )


class _Timer:
    def __init__(self, meter: Meter, name: str):
        self._meter, self._name = meter, name

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *_: object) -> None:
        spent = time.monotonic() - self._begun
        setattr(self._meter, self._name, getattr(self._meter, self._name) + spent)
