"""What a run tells while it trains: the bar, metrics.jsonl and TensorBoard."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ddpm_jax.files import replacing


class Journal:
    """Process 0's voice; on the other processes of a pod it is silent and writes nothing."""

    def __init__(self, run: Path, *, start: int, total: int, silent: bool = False):
        """`start` is the step a run goes on from: what was written beyond it is taken back."""
        self._silent = silent
        self._file = self._board = self._bar = None
        self._path = run / "metrics.jsonl"
        self._total, self._start, self._begun = total, start, None
        if silent:
            return
        from tensorboardX import SummaryWriter

        run.mkdir(parents=True, exist_ok=True)
        if start:
            kept = [row for row in read_metrics(self._path) if row["step"] <= start]
            with replacing(self._path) as beside:
                beside.write_text("".join(json.dumps(row) + "\n" for row in kept))
            self._file = self._path.open("a")
        else:
            self._file = self._path.open("w")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else 0)
        # Piped into a file, a bar is noise: plain lines at each row instead.
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1
            )

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if not self._silent:
            tqdm.write(line, file=sys.stderr)

    def advance(self, steps: int) -> None:
        """Moves the bar, and begins the clock: what is left is told by the steps alone."""
        if self._begun is None:
            self._begun, self._start = time.monotonic(), self._start + steps
        if self._bar is not None:
            self._bar.update(steps)

    def row(self, step: int, values: dict[str, float]) -> None:
        """Writes one row of finite or non-finite numbers, everywhere at once."""
        if self._file is None or self._board is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        shown = {
            "loss": f"{values['loss']:.4f}",
            "grad": f"{values['grad_norm']:.2f}",
            "img/s": f"{values['images_per_s']:,.0f}",
        }
        if self._bar is not None:
            self._bar.set_postfix(shown)
        else:
            spent = time.monotonic() - (self._begun or time.monotonic())
            left = spent / max(1, step - self._start) * (self._total - step)
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            self.say(f"step {step:,} of {self._total:,}  {text}  {_clock(left)} left")

    def picture(self, step: int, name: str, path: Path) -> None:
        """Shows a picture that was written to `path` in TensorBoard."""
        if self._board is not None:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            self._board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Ends the bar and the files."""
        for part in (self._bar, self._file, self._board):
            if part is not None:
                part.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl; a last line that a kill cut off is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
