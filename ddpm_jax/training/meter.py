"""What a step costs and gives, measured without making the device wait."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from ddpm_jax.config import TrainConfig
from ddpm_jax.errors import UserError
from ddpm_jax.training.journal import Journal

# How many dispatches the host may run ahead: enough to hide it, few enough to stop promptly.
_AHEAD = 2


class Meter:
    """Averages over the rows of the journal; reads the device one dispatch late, never sooner."""

    def __init__(self, config: TrainConfig, journal: Journal):
        self._config, self._journal = config, journal
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
        if step % self._config.log_every == 0:
            self._due, self._interval = self._interval, []

    def check(self) -> None:
        """Waits for all that was dispatched; raises UserError if any of it is not finite.

        To be called before a save, so that no checkpoint holds what a bad step left behind.
        """
        if self._due:
            self._write()
        _check_finite([(step, jax.device_get(metrics)) for step, metrics in self._interval])

    def flush(self) -> None:
        """Writes what has not been written yet."""
        self._due += self._interval
        self._interval = []
        if self._due:
            self._write()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Times what is spent waiting for data."""
        begun = time.monotonic()
        yield
        self._waited += time.monotonic() - begun

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Times what is no training: it does not count against images/s."""
        begun = time.monotonic()
        yield
        self._away += time.monotonic() - begun

    def _write(self) -> None:
        due, self._due = self._due, []
        steps = [step for step, _ in due]
        fetched = jax.device_get([metrics for _, metrics in due])
        _check_finite(list(zip(steps, fetched, strict=True)))
        spent = max(1e-9, time.monotonic() - self._since - self._away)
        images = self._config.batch_size * self._config.steps_per_dispatch * len(due)
        row = {
            "loss": float(np.mean([metrics["loss"] for metrics in fetched])),
            "grad_norm": float(np.mean([metrics["grad_norm"] for metrics in fetched])),
            "learning_rate": float(np.ravel(fetched[-1]["learning_rate"])[-1]),
            "images_per_s": images / spent,
            "data_wait": self._waited / spent,
        }
        self._journal.row(steps[-1], row)
        self.restart()


def _check_finite(rows: list[tuple[int, Any]]) -> None:
    for step, metrics in rows:
        for name in ("loss", "grad_norm"):
            if not np.isfinite(metrics[name]).all():
                raise UserError(
                    f"{name} is not finite at step {step}; the newest checkpoint is from before: "
                    "lower --optimizer.learning_rate or use --model.dtype float32, and run again"
                )
