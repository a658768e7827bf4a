"""The figures that `ddpm plot` draws: arrays of a run or a config, handed to `plots`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import plots
from ddpm_jax.config import Config
from ddpm_jax.data import open_source
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.diffusion import SCHEDULES, make_schedule, q_sample, time_steps
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.run import Run, load
from ddpm_jax.sampling import Samples, write_samples
from ddpm_jax.streams import sample_keys
from ddpm_jax.training.journal import read_metrics


class Subject(NamedTuple):
    """What a figure is drawn of: a config, and the run's folder where there is one."""

    config: Config
    folder: Path | None
    seed: int
    progress: Callable[[int, int], None]

    def run(self) -> Run:
        if self.folder is None:
            raise UserError("this figure needs a trained run: name its folder, as runs/digits")
        return load(self.folder)

    def draw(self, **options: Any) -> Samples:
        return self.run().sample(seed=self.seed, progress=self.progress, **options)


def _samples(subject: Subject, path: Path) -> None:
    """A grid of samples; where the data has classes, a column is a class."""
    write_samples(path, subject.draw())


def _film(subject: Subject, path: Path) -> None:
    """The film of the samples' denoising, from noise to data."""
    write_samples(path, subject.draw(frames_of=64))


def _loss(subject: Subject, path: Path) -> None:
    """The loss and the gradient's norm over the steps."""
    if subject.folder is None:
        raise UserError("this figure needs a trained run: name its folder, as runs/digits")
    rows = read_metrics(subject.folder / "metrics.jsonl")
    if not rows:
        raise UserError(f"{subject.folder / 'metrics.jsonl'} has no rows yet; train a little first")
    plots.loss(path, rows)


def _schedules(subject: Subject, path: Path) -> None:
    """All noise schedules side by side, with this config's T, β₁, β_T and s."""
    settings = subject.config.diffusion
    given = {"beta_1": settings.beta_1, "beta_T": settings.beta_T, "s": settings.s}
    own = settings.schedule
    curves = {
        f"{name} (this one)" if name == own else name: np.asarray(
            make_schedule(name, settings.timesteps, **given).alpha_bar
        )
        for name in SCHEDULES
    }
    plots.schedules(path, curves)


def _forward(subject: Subject, path: Path) -> None:
    """Examples of the data on their way to noise: x_t at ten times."""
    config = subject.config
    source = open_source(config.data)
    experiment = build(config)
    random = np.random.default_rng(subject.seed)
    pictures = len(source.shape) == 3
    chosen = random.choice(len(source), min(5 if pictures else 2_000, len(source)), replace=False)
    x_0 = to_unit(jnp.asarray(source.gather(chosen).examples))
    T = config.diffusion.timesteps
    times = time_steps(T, min(T, 9))[::-1]
    # One noise for an example's whole row: the eye follows the picture, not the grain.
    keys = sample_keys(subject.seed, np.arange(len(x_0)))
    eps = jax.vmap(lambda key: jax.random.normal(key, x_0.shape[1:]))(keys)
    frames = np.stack(
        [np.asarray(q_sample(experiment.schedule, x_0, jnp.asarray(t), eps)) for t in times]
    )
    columns = [int(t) for t in times]
    if pictures:
        plots.strip(path, frames.swapaxes(0, 1), columns=columns)
    else:
        plots.strip(path, frames, columns=columns)


FIGURES: dict[str, Callable[[Subject, Path], None]] = {
    "samples": _samples,
    "film": _film,
    "loss": _loss,
    "schedules": _schedules,
    "forward": _forward,
}


def draw(
    name: str,
    config: Config,
    folder: Path | None,
    output: str | None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Draws a row of `FIGURES` and returns the path it was written to.

    Without an output it goes into the run's folder, or into the current one for a bare config.
    Raises UserError for a figure that needs what is not there.
    """
    suffix = ".gif" if name == "film" else ".png"
    path = Path(output) if output else (folder or Path()) / f"{name}{suffix}"
    plots.check_path(path, suffix)
    FIGURES[name](Subject(config, folder, seed, progress), path)
    return path
