"""The loss, speed and waiting time of the steps, measured without making the device wait."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from ddpm_jax.config import TrainConfig
from ddpm_jax.training.logging.run_logger import RunLogger

# How many dispatches the host may run ahead: enough to hide its work, few enough to stop promptly.
_AHEAD = 2


class StepMetrics:
    """Averages the metrics of the steps into rows of the log, reading the device late.

    The delay is a number of dispatches, not a time. So all processes of a pod learn of a non-finite
    step at the same step.
    """

    def __init__(self, config: TrainConfig, logger: RunLogger):
        self._config, self._logger = config, logger
        self.restart()

    def restart(self) -> None:
        """Forgets what was dispatched, and begins an interval now."""
        self.nonfinite = 0
        """How many of the last steps in a row were not finite, as far as the host knows."""
        self._running: deque[Any] = deque()
        self._interval: list[tuple[int, Any]] = []
        self._due: list[tuple[int, Any]] = []
        self._begin()

    def _begin(self) -> None:
        self._since, self._excluded, self._waited = time.monotonic(), 0.0, 0.0

    @property
    def limit_reached(self) -> bool:
        """Whether the limit of non-finite steps in a row is reached; the state then stays."""
        return self.nonfinite >= self._config.nonfinite_limit

    def add(self, step: int, metrics: Any) -> None:
        """Takes the metrics of a dispatch that ends at `step` and may still be running."""
        metrics["nonfinite"].copy_to_host_async()
        self._running.append(metrics)
        if len(self._running) > _AHEAD:
            self._read_oldest()
        if self._due:
            self._write()
        self._interval.append((step, metrics))
        if step % self._config.log_every == 0:
            self._due, self._interval = self._interval, []

    def _read_oldest(self) -> None:
        oldest = self._running.popleft()
        self.nonfinite = int(np.ravel(jax.device_get(oldest["nonfinite"]))[-1])

    def settle(self) -> None:
        """Waits for all dispatches; `nonfinite` and `limit_reached` are then the state's."""
        while self._running:
            self._read_oldest()
        if self._due:
            self._write()

    def flush(self) -> None:
        """Writes what has not been written yet."""
        self.settle()
        self._due, self._interval = self._interval, []
        if self._due:
            self._write()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures the time spent waiting for data."""
        begun = time.monotonic()
        yield
        self._waited += time.monotonic() - begun

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes time that was not spent training from the images per second."""
        begun = time.monotonic()
        yield
        self._excluded += time.monotonic() - begun

    def _write(self) -> None:
        due, self._due = self._due, []
        each = self._config.steps_per_dispatch
        fetched = jax.device_get([metrics for _, metrics in due])
        values = {
            name: np.concatenate([np.ravel(metrics[name]) for metrics in fetched])
            for name in fetched[0]
        }
        steps = np.concatenate([np.arange(end - each, end) for end, _ in due])
        finite = values["nonfinite"] == 0
        spent = max(1e-9, time.monotonic() - self._since - self._excluded)
        row = {
            "loss": _mean(values["loss"][finite]),
            "grad_norm": _mean(values["grad_norm"][finite]),
            "learning_rate": float(values["learning_rate"][-1]),
            "images_per_s": self._config.batch_size * len(steps) / spent,
            "data_wait": self._waited / spent,
            "nonfinite_steps": int((~finite).sum()),
        }
        end = due[-1][0]
        if not finite.all():
            self._report(end, steps[~finite].tolist())
        self._logger.row(end, row)
        self._begin()

    def _report(self, end: int, nonfinite: list[int]) -> None:
        some = ", ".join(map(str, nonfinite[:5])) + (" …" if len(nonfinite) > 5 else "")
        self._logger.say(
            f"no update from {len(nonfinite)} step(s) whose loss or gradient was not finite: {some}"
        )
        self._logger.event(end, "nonfinite", steps=nonfinite)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
