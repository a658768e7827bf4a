"""Progress of a training: a bar on a terminal, otherwise a line for each row of the log."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from ddpm_jax.training.logging.logger import LogContext, Logger


class TerminalReport:
    """Prints lines to stderr, above a progress bar if there is one; a `report` for `train`."""

    def __call__(self, line: str) -> None:
        with suppress(OSError):  # stderr may be a file on a full disk.
            tqdm.write(line, file=sys.stderr)


class Progress(Logger):
    """Shows how far the run is, and the time left.

    A TerminalReport on a terminal shows a bar. Any other report gets lines, because a bar would
    fill a file with control characters.
    """

    def __init__(self, context: LogContext):
        self._total, self._report = context.total, context.report
        self._start, self._begun, self._said = 0, None, time.monotonic()
        self._has_bar = isinstance(context.report, TerminalReport) and sys.stderr.isatty()
        self._bar: Any = None
        self._shown: dict[str, str] = {}

    def row(self, step: int, values: Mapping[str, float]) -> None:
        shown = {name: f"{value:.4g}" for name, value in values.items()}
        if "loss" in values:
            shown = {
                "loss": f"{values['loss']:.4f}",
                "grad": f"{values['grad_norm']:.2f}",
                "img/s": f"{values['images_per_s']:,.0f}",
            }
        self._shown |= shown
        if self._bar is not None:
            self._bar.set_postfix(self._shown)
        elif not self._has_bar:
            self._say(step, "".join(f"  {name} {value}" for name, value in shown.items()))

    def _say(self, step: int, text: str = "") -> None:
        now, made = time.monotonic(), step - self._start
        if self._begun is not None and made > 0:
            left = (now - self._begun) / made * (self._total - step)
            text = f"{text}  {clock(left)} left"
        self._said = now
        self._report(f"step {step:,} of {self._total:,}{text}")

    def advance(self, step: int) -> None:
        # The first dispatch may include compilation: clock and bar start after it.
        if self._begun is None:
            self._begun, self._start = time.monotonic(), step
            if self._has_bar:
                self._bar = steps_bar(step, self._total)
        elif self._bar is not None:
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._said >= EVERY_SECONDS:
            self._say(step)

    def rewind(self, step: int) -> None:
        self._begun, self._start = None, step
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


EVERY_SECONDS = 60
"""Without a terminal, long work says how far it is this often."""


def steps_bar(done: int, total: int, title: str | None = None) -> Any:
    """Returns a bar on stderr that counts time from now on, and is wiped when it is closed."""
    return tqdm(
        desc=title,
        total=total,
        initial=done,
        unit="step",
        dynamic_ncols=True,
        smoothing=0.1,
        leave=False,
    )


def clock(seconds: float) -> str:
    """Returns a duration as minutes:seconds, or hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
