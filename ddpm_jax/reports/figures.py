"""The figures that `ddpm plot` draws: arrays of a run or a config, handed to `plots`."""

import dataclasses
import inspect
import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddpm_jax import plots
from ddpm_jax.config import Config, override
from ddpm_jax.data import open_source, resolve
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.diffusion import (
    SCHEDULES,
    NoiseSchedule,
    make_schedule,
    q_sample,
    q_step,
    time_steps,
)
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.files import StoragePath, storage_path
from ddpm_jax.runtime.random import stream_key
from ddpm_jax.sampling.denoiser import make_denoiser
from ddpm_jax.sampling.files import write_samples
from ddpm_jax.sampling.run import Run, load
from ddpm_jax.sampling.samples import Samples, class_columns
from ddpm_jax.training.logging.run_logger import read_rows
from ddpm_jax.typing import Conditioning, Examples

Rows = Literal["examples", "times"]
Way = Literal["stepwise", "direct"]

_POINTS = 2_000
"""How many points of the plane make a cloud."""


class Subject(NamedTuple):
    """What a figure is drawn of: a config, and the run's folder where there is one."""

    config: Config
    folder: StoragePath | None
    seed: int
    progress: Callable[[int, int], None]

    def run(self) -> Run:
        if self.folder is None:
            raise UserError("this figure needs a trained run: name its folder, as runs/digits")
        return load(self.folder)

    def several(self, num: int | None, pictures: int) -> int:
        """Returns how many examples to show: `pictures` of them or a cloud, unless told.

        But no more pictures than a preview has, which may be of one large one.
        """
        few = min(pictures, self.config.sample.num)
        return num or (few if len(self.config.data.example_shape) == 3 else _POINTS)

    def sample(self, num: int, *, film: bool = False) -> Samples:
        # Only what is in the first batch leaves a trajectory: one batch holds them all.
        options: dict[str, Any] = {"num_trajectories": num, "batch_size": num} if film else {}
        return self.run().sample(num, seed=self.seed, progress=self.progress, **options)

    def examples(self, num: int, split: str | None) -> tuple[Examples, jax.Array | None]:
        """Returns some of the data on the network's scale, and their labels if there are any."""
        config = self.config if split is None else override(self.config, {"data.split": split})
        source = open_source(config.data)
        random = np.random.default_rng(self.seed)
        chosen = source.gather(random.choice(len(source), min(num, len(source)), replace=False))
        labels = None if chosen.labels is None else jnp.asarray(chosen.labels)
        return to_unit(jnp.asarray(chosen.examples)), labels

    def times(self, wanted: int) -> np.ndarray:
        """Returns 0…T, or as many times as wanted, evenly over them: int32, increasing."""
        T = self.config.diffusion.timesteps
        return time_steps(T, min(T, wanted - 1))[::-1]


# --- arrays: strips of K times, [K, B, …] ---------------------------------------------------------


def direct(schedule: NoiseSchedule, x_0: Examples, times: np.ndarray, key: jax.Array) -> np.ndarray:
    """Returns x_t drawn from q(x_t | x_0), `[K, B, …]`, with one noise for all times.

    The eye then follows the picture, not the grain. x_0 is `[B, …]`, times int `[K]` in 0…T.
    """
    eps = jax.random.normal(key, x_0.shape)
    at_time = jax.jit(jax.vmap(lambda t: q_sample(schedule, x_0, t, eps)))
    return np.asarray(at_time(jnp.asarray(times)))


def stepwise(
    schedule: NoiseSchedule, x_0: Examples, times: np.ndarray, key: jax.Array
) -> np.ndarray:
    """Returns x_t after t steps of q(x_t | x_{t-1}), `[K, B, …]`, each with fresh noise.

    x_0 is `[B, …]`, times int `[K]` from 0 on, increasing; only their x_t are kept.
    """

    def step(t: jax.Array, x: Examples) -> Examples:
        return q_step(schedule, x, t, jax.random.normal(jax.random.fold_in(key, t), x.shape))

    walk = jax.jit(lambda x, s, t: lax.fori_loop(s + 1, t + 1, step, x))
    frames = [x_0]
    for s, t in itertools.pairwise(times):
        frames.append(walk(frames[-1], s, t))
    return np.stack(jax.device_get(frames))


def guesses(run: Run, x_t: np.ndarray, times: np.ndarray, labels: jax.Array | None) -> np.ndarray:
    """Returns the network's x̂_0 of each x_t, `[K, B, …]` as they are; times int `[K]` in 0…T.

    Clipped as in the run's sampling, but not guided: guidance overshoots what the network sees. At
    t = 0 nothing is to be guessed.
    """
    known = labels if run.experiment.num_classes else None
    options = dataclasses.replace(run.config.sample, guidance=0.0)
    denoiser = make_denoiser(run.experiment, run.params, Conditioning(labels=known), options)
    guess = jax.jit(lambda x, t: denoiser(x, t).x_0)
    pairs = zip(jnp.asarray(x_t), jnp.asarray(times), strict=True)
    return np.stack([np.asarray(guess(x, t) if t else x) for x, t in pairs])


def stages(drawn: Samples, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns as many stages of a filmed chain as wanted, `[K, B, …]`, and their times from T to 0.

    Evenly over the frames, the first and the last among them; all of them if there are fewer.
    """
    if drawn.frames is None or drawn.times is None:
        raise ValueError("stages need samples drawn with num_trajectories")
    last = len(drawn.frames) - 1
    kept = np.linspace(0, last, min(wanted, last + 1)).round().astype(int)
    return drawn.frames[kept], drawn.times[kept]


def _strip(
    path: StoragePath, named: dict[str, np.ndarray], times: np.ndarray, rows: Rows = "examples"
) -> None:
    """Draws strips `[K, B, …]`, each under its name: a row each for a cloud or for every picture.

    With `rows` "times", what was a row is a column. Names are left out where one strip has all.
    """
    strips = list(named.values())
    names, frames = list(named), np.stack(strips, axis=2 if strips[0].ndim == 5 else 1)
    if frames.ndim == 6:
        # B pictures, and the strips of one below each other.
        names *= frames.shape[1]
        frames = frames.reshape(len(times), -1, *frames.shape[3:])
    labels: dict[str, Any] = {"rows": [int(t) for t in times]}
    if len(named) > 1:
        labels["columns"] = names
    if rows == "examples":
        frames = frames.swapaxes(0, 1)
        labels = {"columns": labels["rows"], "rows": labels.get("columns")}
    plots.strip(path, frames, **labels)


# --- figures --------------------------------------------------------------------------------------


def _samples(
    subject: Subject, path: StoragePath, *, num: int | None = None, columns: int | None = None
) -> None:
    """A grid of samples; where the data has classes, a column is a class."""
    drawn = subject.sample(num or subject.config.sample.num)
    plots.grid(path, drawn.samples, columns=columns or class_columns(drawn.labels))


def _film(subject: Subject, path: StoragePath, *, num: int | None = None) -> None:
    """The film of the samples' denoising, from noise to data."""
    write_samples(path, subject.sample(subject.several(num, 64), film=True))


def _loss(subject: Subject, path: StoragePath) -> None:
    """The loss and the gradient's norm over the steps."""
    if subject.folder is None:
        raise UserError("this figure needs a trained run: name its folder, as runs/digits")
    rows = read_rows(subject.folder / "metrics.jsonl")
    if not rows:
        raise UserError(f"{subject.folder / 'metrics.jsonl'} has no rows yet; train a little first")
    plots.loss(path, rows)


def _schedules(subject: Subject, path: StoragePath) -> None:
    """The noise schedules side by side, with this config's T, β₁, β_T and s.

    A schedule that float32 can't hold at this T is left out.
    """
    settings = subject.config.diffusion
    given = {"beta_1": settings.beta_1, "beta_T": settings.beta_T, "s": settings.s}
    own = settings.schedule
    curves = {}
    for name in SCHEDULES:
        with suppress(ValueError):
            schedule = make_schedule(name, settings.timesteps, **given)
            curves[f"{name} (this one)" if name == own else name] = np.asarray(schedule.alpha_bar)
    plots.schedules(path, curves)


def _forward(
    subject: Subject,
    path: StoragePath,
    *,
    num: int | None = None,
    times: int = 11,
    rows: Rows = "examples",
    way: Way | None = None,
    split: str | None = None,
) -> None:
    """Data on its way to noise: step by step, and at once from x_0."""
    x_0, _ = subject.examples(subject.several(num, 1), split)
    schedule, shown = build(subject.config).schedule, subject.times(times)
    strips = {
        name: draw_strip(schedule, x_0, shown, stream_key(subject.seed, "noise"))
        for name, draw_strip in {"stepwise": stepwise, "direct": direct}.items()
        if way in (None, name)
    }
    _strip(path, strips, shown, rows)


def _reverse(
    subject: Subject,
    path: StoragePath,
    *,
    num: int | None = None,
    times: int = 11,
    rows: Rows = "examples",
) -> None:
    """Samples on their way from noise to data: the chain at some of its times."""
    drawn = subject.sample(subject.several(num, 10), film=True)
    frames, shown = stages(drawn, times)
    _strip(path, {"": frames}, shown, rows)


def _x0(
    subject: Subject,
    path: StoragePath,
    *,
    num: int | None = None,
    times: int = 11,
    rows: Rows = "examples",
    split: str | None = None,
) -> None:
    """x_t, and with it the x_0 that the network guesses from it."""
    run = subject.run()
    x_0, labels = subject.examples(subject.several(num, 1), split)
    shown = subject.times(times)
    x_t = direct(run.experiment.schedule, x_0, shown, stream_key(subject.seed, "noise"))
    strips = {"$x_t$": x_t, r"$\hat{x}_0$": guesses(run, x_t, shown, labels)}
    _strip(path, strips, shown, rows)


FIGURES: dict[str, Callable[..., None]] = {
    "samples": _samples,
    "film": _film,
    "loss": _loss,
    "schedules": _schedules,
    "forward": _forward,
    "reverse": _reverse,
    "x0": _x0,
}


def options_of(name: str) -> list[str]:
    """Returns the options that a row of `FIGURES` takes."""
    parameters = inspect.signature(FIGURES[name]).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


_LEAST = {"num": 1, "columns": 1, "times": 2}


def check(name: str, options: dict[str, Any]) -> None:
    """Raises UserError for an option that a row of `FIGURES` lacks, and one that is too small."""
    for option, value in options.items():
        if option not in (*options_of(name), "output", "seed"):
            takes = ", ".join(f"--{each}" for each in (*options_of(name), "output", "seed"))
            raise UserError(f"--{option}: the figure {name} has no such option; it takes {takes}")
        least = _LEAST.get(option)
        if least is not None and value < least:
            raise UserError(f"--{option} is {value}; it must be at least {least}")


def draw(
    name: str,
    config: Config,
    folder: StoragePath | None,
    output: str | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> StoragePath:
    """Draws a row of `FIGURES` and returns the path it was written to.

    Without an output it goes into the run's folder, or into the current one for a bare config.
    `options` are among `options_of(name)`. Raises UserError for a figure that needs what is not
    there, an option that it lacks, and one that is too small.
    """
    check(name, options)
    suffix = ".gif" if name == "film" else ".png"
    path = storage_path(output) if output else (folder or storage_path(".")) / f"{name}{suffix}"
    plots.check_path(path, suffix)
    FIGURES[name](Subject(resolve(config), folder, seed, progress), path, **options)
    return path
