"""The figures of a run or a config: FIGURES is the table, `draw` writes one of them to a file.

To add a figure, write its function and its row here. Its keyword-only parameters are its options,
in Python and on the command line.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import plots, tables
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.snapshots import Lengths
from ddpm_jax.config import Config, override, shown_channels
from ddpm_jax.data import open_source, resolve
from ddpm_jax.data.classes import with_classes
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.diffusion import SCHEDULES, make_schedule, time_steps
from ddpm_jax.errors import UserError, nearest, require
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.features.pixels import flatten
from ddpm_jax.evaluation.metrics.memorisation import nearest_members
from ddpm_jax.evaluation.metrics.metric import subset
from ddpm_jax.evaluation.sets import batches
from ddpm_jax.evaluation.stored import arrays_of
from ddpm_jax.experiment import build
from ddpm_jax.files import StoragePath, storage_path
from ddpm_jax.reports.trajectories import (
    noised_directly,
    noised_stepwise,
    predicted_x_0,
    spaced_frames,
)
from ddpm_jax.runtime.mesh import all_devices
from ddpm_jax.runtime.random import stream_key
from ddpm_jax.runtime.switches import pinned
from ddpm_jax.sampling.files import write_samples
from ddpm_jax.sampling.run import Run, load
from ddpm_jax.sampling.samples import Samples, draw_grid, visible
from ddpm_jax.training.logging.run_logger import read_rows
from ddpm_jax.typing import Examples, is_image

# The options, with their texts for help pages.
Num = Annotated[int | None, "How many samples or examples."]
Columns = Annotated[int | None, "Columns of the grid of samples."]
Times = Annotated[int, "How many times t, evenly over 0 … T."]
RowMeaning = Annotated[Literal["examples", "times"], "What a row of the figure is."]
Way = Annotated[
    Literal["stepwise", "direct"] | None, "One of the two ways from data to noise, instead of both."
]
Swept = Annotated[tuple[float, ...] | None, "Lengths; if left out, eight possible ones."]
Metric = Annotated[str, "A metric, perhaps with options, as in ddpm evaluate."]
FeaturesName = Annotated[str | None, "What the metric compares, as in ddpm evaluate."]
Split = Annotated[str | None, "Another split of the data set to take examples from, as test."]
Terms = Annotated[str | None, "The .npz that ddpm evaluate RUN --metrics bits_per_dim wrote."]

_POINTS = 2_000
"""Points of a cloud."""
_ROWS, _NEAREST, _USUAL = 10, 3, 1_000
"""Samples, the training pictures beside each, and those whose own distances are the usual ones."""


class Subject(NamedTuple):
    """The subject of a figure: a config, and a run of it if there is one."""

    config: Config
    folder: StoragePath | None
    """The run's folder; None for a bare config."""
    seed: int
    progress: Callable[[int, int], None]
    loaded: Run | None = None
    """The run, if it is open already."""
    report: Callable[[str], None] | None = None
    """Gets what opening and sampling the run have to say; Python's warnings without it."""

    def run(self) -> Run:
        """Returns the run; raises UserError for a bare config."""
        more: dict[str, Any] = {} if self.report is None else {"report": self.report}
        return self.loaded or load(self.run_folder(), **more)

    def run_folder(self) -> StoragePath:
        """Returns the run's folder; raises UserError for a bare config."""
        if self.folder is None:
            raise UserError("this figure needs a trained run: name its folder, as runs/digits")
        return self.folder

    def num_shown(self, num: int | None, images: int) -> int:
        """Returns how many examples to show: `num`, or else this many images or a cloud of points.

        Without `num`, no more images than a preview has: they may be large.
        """
        few = min(images, self.config.sample.num)
        return num or (few if is_image(self.config.data.example_shape) else _POINTS)

    def sample(self, num: int, *, trajectories: bool = False) -> Samples:
        """Draws samples, with the frames of their chains if requested."""
        # Only samples of the first batch have trajectories: one batch holds them all.
        batch: dict[str, Any] = {"num_trajectories": num, "batch_size": num} if trajectories else {}
        return self.run().sample(num, seed=self.seed, progress=self.progress, **batch)

    def examples(
        self, num: int, split: str | None, class_names: tuple[str, ...] = ()
    ) -> tuple[Examples, jax.Array | None]:
        """Returns random examples of the data on the network's scale, and their labels or None.

        Labels count in `class_names` if these are given.
        """
        config = self.config if split is None else override(self.config, {"data.split": split})
        all_devices()
        source = open_source(config.data)
        source = with_classes(source, class_names) if class_names else source
        random = np.random.default_rng(self.seed)
        chosen = source.gather(random.choice(len(source), min(num, len(source)), replace=False))
        labels = None if chosen.labels is None else jnp.asarray(chosen.labels)
        return to_unit(jnp.asarray(chosen.examples)), labels

    def times(self, num: int) -> np.ndarray:
        """Returns `num` times evenly over 0…T, rising; all of them if there are fewer."""
        T = self.config.diffusion.timesteps
        return time_steps(T, min(T, num - 1))[::-1]


def _draw_trajectories(
    subject: Subject,
    path: StoragePath,
    named: dict[str, np.ndarray],
    times: np.ndarray,
    rows: RowMeaning = "examples",
) -> None:
    """Draws trajectories `[K, B, …]`, each under its name.

    A cloud of points, and each of B images, is a row; with `rows` "times", a column. Names are left
    out if there is only one.
    """
    channels = shown_channels(subject.config.data)
    trajectories = [visible(each, channels) for each in named.values()]
    images = is_image(trajectories[0].shape[2:])
    names, frames = list(named), np.stack(trajectories, axis=2 if images else 1)
    if images:
        # For each of the B images, its trajectories stand below each other.
        names *= frames.shape[1]
        frames = frames.reshape(len(times), -1, *frames.shape[3:])
    labels: dict[str, Any] = {"rows": [int(t) for t in times]}
    if len(named) > 1:
        labels["columns"] = names
    if rows == "examples":
        frames = frames.swapaxes(0, 1)
        labels = {"columns": labels["rows"], "rows": labels.get("columns")}
    plots.trajectory(path, frames, **labels)


# --- figures --------------------------------------------------------------------------------------


def _samples(
    subject: Subject, path: StoragePath, *, num: Num = None, columns: Columns = None
) -> None:
    """A grid of samples; if the network has classes, one column per class."""
    drawn = subject.sample(num or subject.config.sample.num)
    draw_grid(path, drawn, columns=columns)


def _animation(subject: Subject, path: StoragePath, *, num: Num = None) -> None:
    """An animation of the denoising of samples, from noise to data."""
    write_samples(path, subject.sample(subject.num_shown(num, 64), trajectories=True))


def _loss(subject: Subject, path: StoragePath) -> None:
    """The loss and the norm of the gradient over the steps."""
    metrics = subject.run_folder() / "metrics.jsonl"
    rows = read_rows(metrics)
    if not rows:
        raise UserError(f"{metrics} has no rows yet; train a little first")
    plots.loss(path, rows)


def _schedules(subject: Subject, path: StoragePath) -> None:
    """All noise schedules, with the T and the options of this config.

    A schedule that float32 can't represent at this T is left out.
    """
    settings = subject.config.diffusion
    own = settings.schedule
    curves = {}
    for name, row in SCHEDULES.items():
        takes = tables.options_of(row)
        shared = {option: v for option, v in own.options.items() if option in takes}
        shown = f"{name} (this one)" if name == own.name else name
        with suppress(ValueError):
            schedule = make_schedule(
                name,
                settings.timesteps,
                shift=settings.shift,
                zero_terminal_snr=settings.zero_terminal_snr,
                **shared,
            )
            curves[shown] = np.asarray(schedule.alpha_bar)
    plots.schedules(path, curves)


def _forward(
    subject: Subject,
    path: StoragePath,
    *,
    num: Num = None,
    times: Times = 11,
    rows: RowMeaning = "examples",
    way: Way = None,
    split: Split = None,
) -> None:
    """Data becoming noise: step by step, and directly from x_0."""
    x_0, _ = subject.examples(subject.num_shown(num, 1), split)
    schedule, shown = build(subject.config).schedule, subject.times(times)
    trajectories = {
        name: noised(schedule, x_0, shown, stream_key(subject.seed, "noise"))
        for name, noised in {"stepwise": noised_stepwise, "direct": noised_directly}.items()
        if way in (None, name)
    }
    _draw_trajectories(subject, path, trajectories, shown, rows)


def _reverse(
    subject: Subject,
    path: StoragePath,
    *,
    num: Num = None,
    times: Times = 11,
    rows: RowMeaning = "examples",
) -> None:
    """Noise becoming samples: the chain at some of its times."""
    drawn = subject.sample(subject.num_shown(num, 10), trajectories=True)
    frames, shown = spaced_frames(drawn, times)
    _draw_trajectories(subject, path, {"": frames}, shown, rows)


def _x0(
    subject: Subject,
    path: StoragePath,
    *,
    num: Num = None,
    times: Times = 11,
    rows: RowMeaning = "examples",
    split: Split = None,
) -> None:
    """x_t, and the x_0 that the network predicts from it."""
    run = subject.run()
    x_0, labels = subject.examples(subject.num_shown(num, 1), split, run.class_names)
    shown = subject.times(times)
    x_t = noised_directly(run.experiment.schedule, x_0, shown, stream_key(subject.seed, "noise"))
    beside = run.experiment.beside(x_0, stream_key(subject.seed, "condition"))
    predicted = predicted_x_0(run, x_t, shown, labels, beside)
    _draw_trajectories(subject, path, {"$x_t$": x_t, r"$\hat{x}_0$": predicted}, shown, rows)


def _neighbours(subject: Subject, path: StoragePath, *, num: Num = None) -> None:
    """Samples that are most like a copy, and the training pictures nearest to each of them.

    A row's number is the distance of the nearest one, where 1 is the median of the distances from
    a training picture to the nearest other one. Rows are in the order of the metric memorisation.
    """
    config, k = subject.run().config, 5
    source = open_source(config.data)
    if not is_image(source.shape) or len(source) <= k:
        raise UserError(f"this figure needs a run on more than {k} pictures")
    parts = batches(source, np.arange(len(source)), subject.progress)
    real = np.concatenate([flatten(each.examples).vectors for each in parts])
    few = real[subset(len(real), _USUAL)]
    # An example's own distance, 0, is the least.
    usual = np.median(nearest_members(few, real, 2).distances[:, 1])
    drawn = np.asarray(subject.sample(num or config.sample.num).samples, np.float32)
    found = nearest_members(flatten(drawn).vectors, real, k)
    rows = np.argsort(found.ratios, kind="stable")[:_ROWS]
    pictures = real[found.members[rows, :_NEAREST]].reshape(len(rows), _NEAREST, *source.shape)
    frames = np.concatenate([drawn[rows, None], pictures], axis=1)
    plots.trajectory(
        path,
        visible(frames, shown_channels(config.data)),
        columns=["sample", *(f"training {i + 1}" for i in range(_NEAREST))],
        rows=[f"{each:.2f}" for each in found.distances[rows, 0] / max(usual, 1e-12)],
        title="distance of the nearest; 1: as training pictures from each other",
    )


def _silent(done: int, total: int) -> None:
    pass


def _ema_length(
    subject: Subject,
    path: StoragePath,
    *,
    num: Num = None,
    lengths: Swept = None,
    metric: Metric = "frechet_distance",
    features: FeaturesName = None,
) -> None:
    """A metric of samples over the length of the average, beside the kept average and raw."""
    run = subject.run()
    snapshots = Lengths(Checkpoints(run.folder), run.step)
    if lengths is None:
        possible = snapshots.available()
        even = np.geomspace(possible[0], possible[-1], 8)
        lengths = tuple(float(possible[np.abs(possible - each).argmin()]) for each in even)
        lengths = tuple(dict.fromkeys(lengths))
    for each in lengths:  # Before any sample is drawn.
        snapshots.weights(each)
    first = run.config.train.first_average
    chosen: list[dict[str, Any]] = [{"ema_length": each} for each in lengths]
    chosen += [{"params": first}, {"params": "raw"}]

    def measured(k: int) -> dict[str, float]:
        def share(done: int, total: int) -> None:
            subject.progress(k * total + done, len(chosen) * total)

        more: dict[str, Any] = {} if subject.report is None else {"report": subject.report}
        one = load(run.folder, checkpoint=run.step, **chosen[k], **more)
        more = {"num": num, "seed": subject.seed, "features": features}
        # The samples take nearly all of the time.
        parts = {"sampling": share}
        found = evaluate(one, [metric], progress=lambda title: parts.get(title, _silent), **more)
        return found.values

    *swept, of_first, of_raw = map(measured, range(len(chosen)))
    kept = {first: of_first, "raw": of_raw}
    curves = {name: [each[name] for each in swept] for name in swept[0] if "/" not in name}
    lines = {name: {of: each[name] for of, each in kept.items()} for name in curves}
    plots.sweep(path, lengths, curves, lines, xlabel="relative length of the average")


def _bound(
    subject: Subject,
    path: StoragePath,
    *,
    terms: Terms = None,
    num: Num = None,
    split: Split = None,
) -> None:
    """The variational bound: its terms and errors over t, and distortion over rate.

    Those of a file, or of 64 examples.
    """
    if terms is not None:
        found = arrays_of(storage_path(terms))
    else:
        run = subject.run()
        config = run.config if split is None else override(run.config, {"data.split": split})
        found = evaluate(
            run,
            ["bits_per_dim"],
            reference=config.data,
            num=num or 64,
            seed=subject.seed,
            progress=lambda title: subject.progress,
        ).arrays
    plots.bound(path, found)


FIGURES: dict[str, Callable[..., None]] = {
    "samples": _samples,
    "animation": _animation,
    "loss": _loss,
    "schedules": _schedules,
    "forward": _forward,
    "reverse": _reverse,
    "x0": _x0,
    "neighbours": _neighbours,
    "ema_length": _ema_length,
    "bound": _bound,
}


# Older names that still work.
ALIASES = {"film": "animation"}

_SUFFIXES = {"animation": ".gif"}
_LEAST = {"num": 1, "columns": 1, "times": 2}


def row_name(name: str) -> str:
    """Returns the row of FIGURES that a name or alias means; raises UserError if there is none."""
    row = ALIASES.get(name, name)
    if row not in FIGURES:
        raise UserError(
            f"there is no figure {name}{nearest(name, list(FIGURES))}; there are "
            f"{', '.join(FIGURES)}"
        )
    return row


def suffix_of(name: str) -> str:
    """Returns the ending of the file that a row of FIGURES writes."""
    return _SUFFIXES.get(name, ".png")


def options_of(name: str) -> list[str]:
    """Returns the options of a row of FIGURES."""
    return tables.options_of(FIGURES[name])


def check(name: str, options: dict[str, Any]) -> None:
    """Raises UserError for an option that a row of FIGURES lacks, and for one that is too small."""
    known = (*options_of(name), "output", "seed")
    for option, value in options.items():
        if option not in known:
            takes = ", ".join(known)
            raise UserError(f"{option}: the figure {name} has no such option; it takes {takes}")
        least = _LEAST.get(option)
        require(least is None or value >= least, option, value, f"at least {least}")


def path_of(name: str, folder: StoragePath | None, output: Any = None) -> StoragePath:
    """Returns where a figure is drawn: in `output`, a run's folder, or here for a config."""
    return storage_path(output or (folder or storage_path(".")) / f"{name}{suffix_of(name)}")


@pinned()
def draw(
    name: str,
    config: Config,
    folder: StoragePath | None,
    output: str | StoragePath | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    loaded: Run | None = None,
    report: Callable[[str], None] | None = None,
    **options: Any,
) -> StoragePath:
    """Draws a row of FIGURES and returns the path of its file.

    Without an output the file goes into the run's folder, or for a bare config into the current
    one. `loaded` is the run if it is open already; `report` gets what there is to say about it;
    `options` are those of the row's signature.
    Raises UserError for an unknown figure, for an option that it lacks or that is too small, and if
    the figure needs a run or data that are not there.
    """
    name = row_name(name)
    check(name, options)
    suffix = suffix_of(name)
    path = path_of(name, folder, output)
    plots.check_path(path, suffix)
    subject = Subject(resolve(config), folder, seed, progress, loaded, report)
    FIGURES[name](subject, path, **options)
    return path
