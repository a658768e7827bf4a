"""Stages that enlarge pictures, and chains of runs: each draws from what the one before drew."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.data.pixels import to_unit
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion.chain import sample_noise
from ddpm_jax.diffusion.conditioners import noised
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment
from ddpm_jax.runtime.random import sample_keys, stream_key
from ddpm_jax.sampling.chain import Progress
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.sampling.watching import Watch
from ddpm_jax.typing import Conditioning

# Two stages draw from unrelated keys, because the noises of one key begin alike in all sizes.
_NEXT_SEED = 0x9E3779B9


def enlarges(experiment: Experiment) -> bool:
    """Whether the network draws from smaller pictures."""
    return experiment.conditioner.factor > 1


def seen_by(
    experiment: Experiment, small: np.ndarray, *, seed: int, first: int = 0, noise: float | None
) -> Conditioning:
    """Returns what a stage sees of small pictures float32 `[N, h, w, C]`.

    Picture i has the noise of sample first + i of the seed, at the time `noise` · T; None for the
    config's. Raises UserError for pictures of another shape, and for noise outside what the stage
    was trained with.
    """
    conditioner, config = experiment.conditioner, experiment.config
    factor, (height, width, channels) = conditioner.factor, config.data.example_shape
    wanted = (height // factor, width // factor, channels)
    if small.shape[1:] != wanted:
        have, need = ("×".join(map(str, shape)) for shape in (small.shape[1:], wanted))
        raise UserError(f"the pictures are {have}; this stage enlarges {need}")
    noise = conditioner.noise if noise is None else noise
    most = conditioner.most_noise
    if not 0 <= noise <= most:
        raise UserError(
            f"noise is {noise:g}; it must be in 0 … {most:g}, the diffusion.condition.most_noise "
            "of this stage"
        )
    indices = np.arange(first, first + len(small), dtype=np.uint32)
    eps = sample_noise(sample_keys(seed, indices, "condition"), config.data.example_shape)
    image = jnp.asarray(small, jnp.float32).repeat(factor, axis=1).repeat(factor, axis=2)
    level = jnp.asarray(round(noise * experiment.schedule.T), jnp.int32)
    seen = noised(experiment.schedule, image, level, eps)
    seen = seen if "image_noise" in conditioner.takes else seen._replace(image_noise=None)
    return jax.tree.map(np.asarray, seen)


def seen_in(experiment: Experiment, source: Source, num: int) -> dict[str, Any]:
    """Returns what a network is shown of `num` examples, where nothing else is given.

    A stage is shown them made small, with the noise of sampling, and another network what it is
    shown in training. These are the arguments `conditioning` and `labels` of a `SampleProgram`.
    """
    order = np.random.default_rng(experiment.config.seed).permutation(len(source))
    batch = source.gather(np.resize(order, num))
    x_0 = np.asarray(to_unit(jnp.asarray(batch.examples)))
    has_labels = experiment.num_classes and batch.labels is not None
    labels = np.asarray(batch.labels).tolist() if has_labels else None
    seed = experiment.config.seed
    if enlarges(experiment):
        factor, (height, width, channels) = experiment.conditioner.factor, source.shape
        blocks = (num, height // factor, factor, width // factor, factor, channels)
        small = x_0.reshape(blocks).mean(axis=(2, 4), dtype=np.float32)
        seen = seen_by(experiment, small, seed=seed, noise=None)
    else:
        shown = experiment.beside(jnp.asarray(x_0), stream_key(seed, "condition", 0))
        seen = jax.tree.map(np.asarray, shown)
    return {"conditioning": seen, "labels": labels}


def enlarge(
    run: Run,
    small: np.ndarray,
    *,
    seed: int = 0,
    first: int = 0,
    noise: float | None = None,
    **more: Any,
) -> Samples:
    """Draws a picture of the run's size for each small picture, float32 `[N, h, w, C]`.

    `noise` is the share of T that the small pictures get; None for the config's. `more` is what
    `Run.sample` takes. Raises UserError for a run that does not enlarge, and as `seen_by` and
    `Run.sample` do.
    """
    _require_stage(run)
    seen = seen_by(run.experiment, small, seed=seed, first=first, noise=noise)
    return run.sample(len(small), seed=seed, first=first, conditioning=seen, **more)


def _require_stage(run: Run) -> None:
    if not enlarges(run.experiment):
        raise UserError(
            f"{run.folder} does not enlarge pictures; train a stage, as ddpm train digits_upscale"
        )


class Cascade(Run):
    """A run that draws small pictures, and a stage that enlarges them, as one run.

    Sample i is the stage's picture of sample i of the base. Settings are those of the stage; the
    base, which may be a cascade itself, keeps its own.
    """

    def __init__(self, base: Run, stage: Run, *, noise: float | None = None):
        """`noise` is that of `enlarge`. Raises UserError if the stage does not enlarge pictures of
        the base, or has other classes."""
        more: dict[str, Any] = {"name": stage.name, "mesh": stage.mesh, "report": stage.report}
        super().__init__(stage.folder, stage.step, stage.experiment, stage.params, **more)
        own_noise = stage.experiment.conditioner.noise
        self.base, self.stage = base, stage
        self.noise = own_noise if noise is None else noise
        self.guides, self._guide_params = stage.guides, stage._guide_params
        own, classes = stage.num_classes, base.num_classes
        if own and own != classes:
            raise UserError(
                f"{stage.folder} has {own} classes, and {base.folder} {classes or 'none'}; give "
                "runs of the same classes"
            )
        names = base.class_names, stage.class_names
        if own and all(names) and names[0] != names[1]:
            raise UserError(f"{stage.folder}: its classes have other names than {base.folder}'s")
        shape = (1, *base.config.data.example_shape)
        _require_stage(stage)
        seen_by(stage.experiment, np.zeros(shape, np.float32), seed=0, noise=noise)

    @property
    def num_classes(self) -> int:
        return self.base.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.base.class_names

    def guided(self, weaker: Run | None = None, classifier: Run | None = None) -> "Cascade":
        """Returns this cascade, whose last stage is guided as `Run.guided` says."""
        return Cascade(self.base, self.stage.guided(weaker, classifier), noise=self.noise)

    def watched(self, watch: Watch) -> "Cascade":
        """Returns this cascade, whose chains, of all stages, show `watch` their intervals."""
        base, stage = self.base.watched(watch), self.stage.watched(watch)
        return Cascade(base, stage, noise=self.noise)

    def sample(  # type: ignore[override]
        self,
        num: int | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        labels: Any = None,
        progress: Progress = lambda done, total: None,
        **more: Any,
    ) -> Samples:
        """Draws samples first … first+num-1 of a seed: the base's, enlarged by the stage."""
        num = self.config.sample.num if num is None and labels is None else num
        small = self.base.sample(num, seed=seed, first=first, labels=labels, progress=progress)
        pictures = np.clip(small.samples, -1, 1)
        given = small.labels if self.stage.num_classes else None
        drawn = enlarge(
            self.stage,
            pictures,
            seed=(seed + _NEXT_SEED) % 2**32,
            first=first,
            noise=self.noise,
            labels=given,
            progress=progress,
            **more,
        )
        return drawn._replace(labels=small.labels, class_names=small.class_names)
