"""What the chapters share: how pictures are shown, and the two runs that they train."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.api import Picture
from ddpm_jax.config import Config, load_file, override

SHARE = "DDPM_TUTORIAL_SHARE"
"""An environment variable: the share of the training steps and samples to make, 1 by default."""


def scaled(full: int, *, multiple: int) -> int:
    """Returns a number of steps or samples: `full`, or the share of it that is asked for.

    It is a `multiple`: training makes several steps in one call, and classes have equal parts.
    """
    share = float(os.environ.get(SHARE, 1))
    return multiple * max(1, round(full * share / multiple))


def show(draw: Callable[..., None], name: str, *arrays: Any, **options: Any) -> Picture:
    """Draws a picture into the file `name` here; a notebook shows it below the cell.

    `draw` is a function of `ddpm_jax.plots`, or another that takes the file first.
    """
    draw(name, *arrays, **options)
    return Picture(Path(name))


@functools.cache
def _classifier() -> Any:
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    real: Any = load_digits()
    return SVC(gamma=0.001).fit(real.data, real.target)  # type: ignore[arg-type]


def recognized(samples: np.ndarray, labels: np.ndarray) -> float:
    """Returns which share of digits `[N, 8, 8, 1]` a classifier of real ones gives their labels."""
    levels = np.clip(samples, -1, 1).reshape(len(samples), 64) * 8 + 8  # 0 … 16, as in the data
    return float(_classifier().score(levels, labels))


def swiss_roll_config() -> Config:
    """Returns configs/swiss_roll_noise.py made short, with four checkpoints on the way.

    The network has a row for each time. With fewer times each row learns from more examples.
    """
    count, num = scaled(10_000, multiple=80), scaled(2_000, multiple=100)
    more = {"diffusion.schedule": "cosine", "diffusion.timesteps": 50, "data.size": 10_000}
    more |= {"optimizer.learning_rate": 1e-2, "train.batch_size": 256}
    more |= {"sample.num": num, "sample.batch_size": num}
    return override(load_file("swiss_roll_noise"), more | _course(count, each=20, save=count // 4))


def digits_config() -> Config:
    """Returns configs/digits.py made short: a small network, and fewer examples a step."""
    count = scaled(600, multiple=10)
    more = {"model.channels": 16, "train.batch_size": 64}
    more |= {"sample.num": scaled(100, multiple=10)}
    return override(load_file("digits"), more | _course(count, each=10, save=count))


def _course(count: int, *, each: int, save: int) -> dict[str, Any]:
    course = {"steps": count, "steps_per_dispatch": each, "log_every": each, "preview_every": None}
    course |= {"save_every": save, "keep_every": save}
    return {f"train.{name}": value for name, value in course.items()}
