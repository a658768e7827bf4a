"""What sampling gives: arrays, and how they show themselves."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax import plots


class Samples(NamedTuple):
    """Samples as float32 on the data's scale; in Jupyter they show themselves as a grid."""

    samples: np.ndarray
    """`[N, …]`"""
    labels: np.ndarray | None
    """int32 `[N]`; num_classes means "no class"; None without labels."""
    frames: np.ndarray | None
    """`[F, n, …]`: the trajectories of the first n samples, if asked for."""
    times: np.ndarray | None
    """`[F]`: the times of the frames, from the chain's first to its last; None without frames."""

    def __repr__(self) -> str:
        count, shape = len(self.samples), "×".join(map(str, self.samples.shape[1:]))
        classes = "no labels" if self.labels is None else f"{len(np.unique(self.labels))} classes"
        trajectories = "" if self.frames is None else f", {self.frames.shape[1]} trajectories"
        return f"Samples({count} of {shape}, {classes}{trajectories})"

    def _repr_png_(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "samples.png"
            plots.grid(path, self.samples, labels=self.labels)
            return path.read_bytes()
