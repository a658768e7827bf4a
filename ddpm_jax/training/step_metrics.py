"""What a step costs and gives, measured without making the device wait."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from ddpm_jax.config import TrainConfig
from ddpm_jax.training.logging.run_logger import RunLogger

# How many dispatches the host may run ahead: enough to hide it, few enough to stop promptly.
_AHEAD = 2


class StepMetrics:
    """Averages over the rows of the journal; reads the device some dispatches late, never sooner.

    How late is counted in dispatches, not in time: all processes of a pod learn of a bad step at
    the same one.
    """

    def __init__(self, config: TrainConfig, journal: RunLogger):
        self._config, self._journal = config, journal
        self.restart()

    def restart(self) -> None:
        """Forgets what was dispatched, and begins an interval now."""
        self.bad = 0
        """How many steps in a row were bad, as far as is known."""
        self._flying: deque[Any] = deque()
        self._interval: list[tuple[int, Any]] = []
        self._due: list[tuple[int, Any]] = []
        self._begin()

    def _begin(self) -> None:
        self._since, self._away, self._waited = time.monotonic(), 0.0, 0.0

    @property
    def broken(self) -> bool:
        """Whether so many steps in a row were bad that the state stands still."""
        return self.bad >= self._config.nonfinite_limit

    def add(self, step: int, metrics: Any) -> None:
        """Takes the metrics of a dispatch that may still be running; `step` is where it ends."""
        metrics["bad"].copy_to_host_async()
        self._flying.append(metrics)
        if len(self._flying) > _AHEAD:
            self._land()
        if self._due:
            self._write()
        self._interval.append((step, metrics))
        if step % self._config.log_every == 0:
            self._due, self._interval = self._interval, []

    def _land(self) -> None:
        self.bad = int(np.ravel(jax.device_get(self._flying.popleft()["bad"]))[-1])

    def settle(self) -> None:
        """Waits for all that was dispatched: then `bad` and `broken` are those of the state."""
        while self._flying:
            self._land()
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
        each = self._config.steps_per_dispatch
        fetched = jax.device_get([metrics for _, metrics in due])
        rows = {
            name: np.concatenate([np.ravel(metrics[name]) for metrics in fetched])
            for name in fetched[0]
        }
        steps = np.concatenate([np.arange(end - each, end) for end, _ in due])
        good = rows["bad"] == 0
        spent = max(1e-9, time.monotonic() - self._since - self._away)
        row = {
            "loss": _mean(rows["loss"][good]),
            "grad_norm": _mean(rows["grad_norm"][good]),
            "learning_rate": float(rows["learning_rate"][-1]),
            "images_per_s": self._config.batch_size * len(steps) / spent,
            "data_wait": self._waited / spent,
            "nonfinite_steps": int((~good).sum()),
        }
        end = due[-1][0]
        if not good.all():
            self._tell(end, steps[~good].tolist())
        self._journal.row(end, row)
        self._begin()

    def _tell(self, end: int, bad: list[int]) -> None:
        some = ", ".join(map(str, bad[:5])) + (" …" if len(bad) > 5 else "")
        self._journal.say(
            f"no update from {len(bad)} step(s), whose loss or gradient was not finite: {some}"
        )
        self._journal.event(end, "bad", steps=bad)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
