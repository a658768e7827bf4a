"""What sampling gives: arrays, and how they show themselves."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax import plots
from ddpm_jax.data.classes import NO_CLASS
from ddpm_jax.plots.style import PathLike


class Samples(NamedTuple):
    """Samples as float32 on the data's scale; in Jupyter they show themselves as a grid."""

    samples: np.ndarray
    """`[N, …]`"""
    labels: np.ndarray | None
    """int32 `[N]`; -1 means "no class"; None without labels."""
    frames: np.ndarray | None
    """`[F, n, …]`: the trajectories of the first n samples, if asked for."""
    times: np.ndarray | None
    """`[F]`: the times of the frames, from the chain's first to its last; None without frames."""
    class_names: tuple[str, ...] = ()
    """The name of each label; empty without labels, or if they are not known."""
    shown: tuple[int, ...] | None = None
    """The channels that pictures show; None for samples that are drawn as they are."""

    def __repr__(self) -> str:
        count, shape = len(self.samples), "×".join(map(str, self.samples.shape[1:]))
        classes = "no labels" if self.labels is None else f"{len(np.unique(self.labels))} classes"
        trajectories = "" if self.frames is None else f", {self.frames.shape[1]} trajectories"
        return f"Samples({count} of {shape}, {classes}{trajectories})"

    def _repr_png_(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "samples.png"
            draw_grid(path, self)
            return path.read_bytes()


def visible(examples: np.ndarray, channels: tuple[int, ...] | None) -> np.ndarray:
    """Returns `[…, C]` with these channels only, as pictures show them; None for all."""
    return examples if channels is None else np.asarray(examples)[..., list(channels)]


def draw_grid(path: PathLike, drawn: Samples, *, columns: int | None = None) -> None:
    """Draws samples as a PNG, each with the name of its class if there are labels."""
    labels, names = drawn.labels, [*drawn.class_names, NO_CLASS]
    if labels is not None and drawn.class_names:
        labels = np.where(labels < 0, len(drawn.class_names), labels)
    plots.grid(
        path,
        visible(drawn.samples, drawn.shown),
        labels=labels,
        names=names if drawn.class_names else None,
        columns=columns,
    )
