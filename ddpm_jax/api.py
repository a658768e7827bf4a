"""What `import ddpm_jax` offers: train a config, open a run, then sample, plot, edit and evaluate.

    run = ddpm_jax.train("digits", "runs/digits").run       # or ddpm_jax.load("runs/digits")
    run.sample(16, labels=[3] * 16).samples                 # float32 [16, 8, 8, 1] in [-1, 1]
    run.plot("samples")
    run.edit("vary", picture, num=4).samples
    run.evaluate()

Nothing is printed. In a notebook samples and figures show themselves.
"""

import base64
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import config as configs
from ddpm_jax.config import Config, DataConfig
from ddpm_jax.data import Source
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import Evaluation, evaluate
from ddpm_jax.evaluation.sets import ExampleSet, Statistics
from ddpm_jax.files import StoragePath
from ddpm_jax.reports import figures
from ddpm_jax.sampling import editing
from ddpm_jax.sampling import run as sampling
from ddpm_jax.sampling.editing import Edited
from ddpm_jax.tables import Choice
from ddpm_jax.training import train as training

__all__ = ["Picture", "Run", "TrainResult", "load", "train"]


class Picture:
    """A figure in a file; a notebook shows it."""

    def __init__(self, path: StoragePath):
        self.path = path

    def __repr__(self) -> str:
        return f"Picture({str(self.path)!r})"

    def _repr_png_(self) -> bytes | None:
        return self.path.read_bytes() if self.path.suffix == ".png" else None

    def _repr_html_(self) -> str | None:
        if self.path.suffix != ".gif":
            return None
        return (
            f'<img src="data:image/gif;base64,{base64.b64encode(self.path.read_bytes()).decode()}">'
        )


class Run(sampling.Run):
    """One checkpoint of a trained run, on this machine's devices."""

    @classmethod
    def of(cls, run: sampling.Run) -> "Run":
        """Returns the same run with `plot` and `evaluate`."""
        more: dict[str, Any] = {"name": run.name, "mesh": run.mesh, "report": run.report}
        return cls(run.folder, run.step, run.experiment, run.params, **more)

    def __repr__(self) -> str:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        classes = self.experiment.num_classes
        labels = f", {classes} classes" if classes else ""
        return (
            f"Run({str(self.folder)!r}, step {self.step}, {self.name}, "
            f"{self.config.model.kind} {parameters:,} parameters{labels})"
        )

    def plot(
        self,
        figure: str = "samples",
        *,
        output: str | StoragePath | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] = lambda done, total: None,
        **options: Any,
    ) -> Picture:
        """Draws a figure, a row of `reports.figures.FIGURES`, into a file.

        The file is `output`, or else FIGURE.png (.gif for the animation) in the run's folder.
        `options` are those of the figure: `num=9` or `times=5`, for example. Raises UserError for
        an unknown figure or option.
        """
        path = figures.draw(
            figure,
            self.config,
            self.folder,
            output,
            seed=seed,
            progress=progress,
            loaded=self,
            **options,
        )
        return Picture(path)

    def edit(
        self,
        how: str,
        pictures: np.ndarray,
        second: np.ndarray | None = None,
        *,
        num: int | None = None,
        seed: int = 0,
        labels: Any = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
        **settings: Any,
    ) -> Edited:
        """Edits pictures by a row of `sampling.editing.EDITS`.

            run.edit("inpaint", picture, mask, num=4)

        `pictures` are `[H, W, C]`, of which `num` variants are drawn, or `[num, H, W, C]`, one
        result each: uint8, or floats in [-1, 1]. `second` is a mask, bool `[H, W]` with True where
        to paint, or the picture at the other end of an interpolation. `settings` are options of the
        row and settings of `sample`. Raises UserError for what does not exist or does not go
        together.
        """
        return editing.edit(
            self,
            how,
            pictures,
            second,
            num=num,
            seed=seed,
            labels=labels,
            progress=progress,
            **settings,
        )

    def evaluate(
        self,
        metrics: Sequence[str | Choice] | None = None,
        *,
        reference: DataConfig | ExampleSet | Statistics | None = None,
        features: str | Choice | None = None,
        num: int | None = None,
        seed: int = 0,
        report: Callable[[str], None] = lambda line: None,
        **settings: Any,
    ) -> Evaluation:
        """Compares samples of a seed with the training data, or with another `reference`.

        `metrics` are rows of `evaluation.metrics.METRICS`, `features` is a row of
        `evaluation.features.FEATURES`; None takes those that apply. `num` samples are drawn; None
        for as many as real examples, at most 10,000. `settings` are those of `sample`. A
        measurement, as bits_per_dim, draws none and takes `num` of the real examples. Raises
        UserError for metrics and features that do not exist or do not apply.
        """
        return evaluate(
            self,
            metrics,
            reference=reference,
            features=features,
            num=num,
            seed=seed,
            settings=settings,
            report=report,
        )


class TrainResult(NamedTuple):
    """How a training ended."""

    run: Run
    """The trained run, ready to sample."""
    step: int
    """The number of steps made."""
    signal: int | None
    """The signal that stopped it after a save; None if all steps are done."""


def train(
    config: Config | str | Path,
    workdir: str | StoragePath,
    *,
    smoke: bool = False,
    source: Source | None = None,
    mesh: Mesh | None = None,
    report: Callable[[str], None] | None = None,
) -> TrainResult:
    """Trains a config in a run folder; continues from its newest good checkpoint if there is one.

    `config` is a Config, the path of a config file or the name of a shipped one; `smoke` takes the
    file's settings for a run of seconds. `source` replaces the data of the config, `mesh` the mesh
    of all devices. `report` gets each line of progress. Raises UserError if the config can't be
    trained here or the folder holds another run.
    """
    if not isinstance(config, Config):
        config = configs.load_file(config, smoke=smoke)
    elif smoke:
        raise UserError("smoke is for config files, and this is a Config; change its settings")
    found = training.train(config, workdir, source=source, mesh=mesh, report=report)
    return TrainResult(Run.of(found.run), found.step, found.signal)


def load(
    folder: str | StoragePath,
    *,
    checkpoint: int | str | None = None,
    params: str | None = None,
    ema_length: float | None = None,
) -> Run:
    """Opens a run folder: its newest good checkpoint, or `checkpoint`: a step, or "best".

    `params` names an average of the parameters, or is "raw"; None takes the first average.
    `ema_length` makes the average of this relative length from the run's snapshots. A damaged
    checkpoint that is passed over gives a warning. Raises UserError if the folder has no
    checkpoint, or not the one asked for, and if its snapshots don't give this length.
    """
    more: dict[str, Any] = {"params": params, "ema_length": ema_length}
    found = sampling.load(folder, checkpoint=checkpoint, report=_warn, **more)
    return Run.of(found)


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=4)
