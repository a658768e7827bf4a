"""Progress of a training: a bar on a terminal, otherwise a line for each row of the log."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress

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
        self._start, self._begun = 0, None
        self._bar = None
        if isinstance(context.report, TerminalReport) and sys.stderr.isatty():
            self._bar = tqdm(total=context.total, unit="step", dynamic_ncols=True, smoothing=0.1)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        shown = {
            "loss": f"{values['loss']:.4f}",
            "grad": f"{values['grad_norm']:.2f}",
            "img/s": f"{values['images_per_s']:,.0f}",
        }
        if self._bar is not None:
            self._bar.set_postfix(shown)
            return
        spent = time.monotonic() - (self._begun or time.monotonic())
        left = spent / max(1, step - self._start) * (self._total - step)
        text = "  ".join(f"{name} {value}" for name, value in shown.items())
        self._report(f"step {step:,} of {self._total:,}  {text}  {_clock(left)} left")

    def advance(self, step: int) -> None:
        # The first dispatch includes compilation: the clock starts after it.
        if self._begun is None:
            self._begun, self._start = time.monotonic(), step
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def rewind(self, step: int) -> None:
        self._begun, self._start = None, step
        if self._bar is not None:
            self._bar.n = self._bar.initial = step
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
