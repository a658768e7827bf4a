"""A shape drawn with the mouse, and a small network that learns it while the page looks on."""

import time
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ddpm_jax.config import (
    Choice,
    Config,
    DiffusionConfig,
    MlpConfig,
    OptimizerConfig,
    PointsData,
    SampleConfig,
    TrainConfig,
)
from ddpm_jax.config.checks import check_seed
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError, require
from ddpm_jax.evaluation.metrics.wasserstein import sliced_wasserstein
from ddpm_jax.experiment import build
from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import fitting_mesh
from ddpm_jax.runtime.switches import pinned
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.run import Run
from ddpm_jax.studio.frames import numbers
from ddpm_jax.studio.library import Library
from ddpm_jax.studio.streams import Stream
from ddpm_jax.training.feed import Feed
from ddpm_jax.training.step import draw_state, jit_train_step, step_inputs

_POINTS, _SHOWN = 4_000, 500
"""Points of the training data; samples that show what is learned."""
_WIDTH = 0.02
"""Standard deviation of the points around the line."""
_EVERY_SECONDS = 0.5
_REACH, _MOST_DRAWN = 2.0, 20_000

CONFIG = Config(
    data=PointsData(size=_POINTS),
    model=MlpConfig(),
    # It ends in noise, as that of configs/swiss_roll_noise.py.
    diffusion=DiffusionConfig(schedule="sigmoid --beta_T 0.2", timesteps=100),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup=100, decay="cosine"),
    train=TrainConfig(
        steps=6_000,
        batch_size=256,
        steps_per_dispatch=100,
        averages={"ema": Choice("ema", decay=0.995)},
        log_every=100,
        save_every=6_000,
        preview_every=None,
    ),
    sample=SampleConfig(sampler="ddpm-beta", clipping="none", num=1000, batch_size=_SHOWN),
)
"""What learns a drawn shape."""


@dataclass(frozen=True)
class Shape:
    """Lines drawn on the page, each a list of points [x, y] within ±2."""

    lines: list = field(default_factory=list)
    seed: int = 0

    def polylines(self) -> list[np.ndarray]:
        """Returns the lines as arrays `[n, 2]`; raises UserError for what is no drawing."""
        check_seed(self.seed)
        try:
            found = [np.array(line, np.float64).reshape(-1, 2) for line in self.lines]
        except (ValueError, TypeError, OverflowError):
            raise UserError("lines must be lists of points [x, y]") from None
        found = [line for line in found if len(line)]
        count = sum(map(len, found))
        require(1 <= count <= _MOST_DRAWN, "the number of drawn points", count, "1 … 20,000")
        inside = all((np.abs(line) <= _REACH).all() for line in found)  # False for NaN.
        if not inside:
            raise UserError(f"a point of the drawing is not finite, or not within ±{_REACH:g}")
        return found


def points_on(lines: list[np.ndarray], count: int, seed: int) -> np.ndarray:
    """Returns float32 points `[count, 2]`, evenly along the lines, with a little noise across."""
    # A lone dot is a line of no length; it counts as one of a line's width.
    starts = np.concatenate([line[: max(1, len(line) - 1)] for line in lines])
    ends = np.concatenate([line[min(1, len(line) - 1) :] for line in lines])
    lengths = np.maximum(np.linalg.norm(ends - starts, axis=1), 1e-3 * _WIDTH)
    random = np.random.default_rng(seed)
    pieces = random.choice(len(lengths), size=count, p=lengths / lengths.sum())
    along = random.uniform(size=(count, 1))
    points = starts[pieces] + along * (ends - starts)[pieces]
    return (points + _WIDTH * random.normal(size=(count, 2))).astype(np.float32)


@pinned()
def learn(library: Library, shape: Shape, stream: Stream, config: Config = CONFIG) -> None:
    """Trains on a shape; sends `start`, `learned` about twice a second, and `done`."""
    lines = shape.polylines()
    data = points_on(lines, _POINTS, seed=2 * shape.seed)
    fresh = points_on(lines, config.sample.num, seed=2 * shape.seed + 1)
    began = time.monotonic()
    mesh = fitting_mesh(1, jax.local_devices()[:1])
    experiment = build(config, devices=1)
    program = SampleProgram(experiment, mesh, config.sample)
    state, step = draw_state(experiment, mesh), jit_train_step(experiment, mesh)
    stream.send("start", {"points": numbers(data[:_SHOWN]), "steps": config.train.steps})
    losses: list[list[float]] = []
    due = 0.0
    each, steps = config.train.steps_per_dispatch, config.train.steps
    samples = np.zeros((0, 2))
    with Feed(experiment, mesh, ArraySource(data)) as feed:
        for done in range(each, steps + 1, each):
            state, metrics = step(state, feed(done - each), step_inputs(experiment, done - each))
            losses.append([done, float(np.mean(metrics["loss"]))])
            stream.check()
            if done < steps and time.monotonic() < due:
                continue
            asked = time.monotonic()
            params = state.ema[config.train.first_average]
            count = config.sample.num if done == steps else min(_SHOWN, config.sample.num)
            samples = program(params, count, seed=shape.seed).samples
            seen: dict[str, Any] = {"step": done, "losses": losses}
            stream.frame("learned", {**seen, "x": numbers(samples[:_SHOWN])})
            # Showing takes a third of the time at most.
            due = time.monotonic() + max(_EVERY_SECONDS, 2 * (time.monotonic() - asked))
    name = config.train.first_average
    params = jax.tree.map(lambda leaf: leaf.copy(), state.ema[name])
    run = Run(storage_path("drawing"), steps, experiment, params, name=name, mesh=mesh)
    again = points_on(lines, config.sample.num, seed=2 * shape.seed + 2)
    distances = sliced_wasserstein(samples, fresh), sliced_wasserstein(again, fresh)
    seconds = round(time.monotonic() - began, 1)
    told = {"run": library.keep(run), "distance": distances[0], "between_draws": distances[1]}
    stream.send("done", {**told, "seconds": seconds})
