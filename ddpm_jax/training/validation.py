"""What a run measures while it trains: a loss on held-out data, and metrics of its previews.

The validation loss is the objective's on held-out examples. Example i of n has t_i = 1 + ⌊(i + ½) T
/ n⌋, and noise that depends on the seed and i alone. No label is dropped and no image is mirrored.
So two losses of a run differ by the parameters only.
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, held_out_data, to_dict
from ddpm_jax.data import Source, describe_source, hold_out, open_source
from ddpm_jax.data.classes import with_classes
from ddpm_jax.data.held_out import part_of, shuffled
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.data.source import ArraySource
from ddpm_jax.diffusion import q_sample
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.evaluation.choosing import choose_features, choose_metrics
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.metrics.metric import Better
from ddpm_jax.evaluation.sets import ExampleSet
from ddpm_jax.experiment import Experiment
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.mesh import gather_over, local_rows, replicated, shard_batch
from ddpm_jax.runtime.random import stream_key
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.training.step import state_layout
from ddpm_jax.typing import Batch, DiffusionInputs, PerExample, Timesteps

LOSS = "validation_loss"


class Validation(NamedTuple):
    """What a run measures; what it does not is None."""

    loss: "ValidationLoss | None"
    metrics: "PreviewMetrics | None"
    better: dict[str, Better]
    """The values that one may look for the best of, by name."""

    def is_better(self, name: str, value: float, before: float) -> bool:
        """Returns whether a value is better than one before."""
        return (operator.lt if self.better[name] == "lower" else operator.gt)(value, before)


NOTHING = Validation(None, None, {})


def make_validation(
    experiment: Experiment, mesh: Mesh, held_out: Source | None, source: Source
) -> Validation:
    """Returns what a run measures; `source` is what it trains on.

    Raises UserError for held-out examples without the labels that the network takes, for metrics
    that do not exist or do not apply, and if keep_best names a value that is not measured.
    """
    config, classes = experiment.config, experiment.num_classes
    chosen = config.validation
    if held_out is not None and classes:
        if not held_out.class_names:
            raise UserError(
                "validation.data has no labels, and the network takes them (model.num_classes is "
                f"{classes}); name data with labels"
            )
        held_out = with_classes(held_out, source.class_names)
    loss, metrics, better = None, None, {}
    if held_out is not None and chosen.every is not None:
        loss = ValidationLoss(experiment, mesh, held_out)
        better[LOSS] = "lower"
    if chosen.metrics:
        metrics = PreviewMetrics(experiment, source if held_out is None else held_out, source)
        better |= metrics.better
    known = list(better)
    if chosen.keep_best is not None and chosen.keep_best not in known:
        have = f"one of {', '.join(known)}{nearest(chosen.keep_best, known)}"
        need = have if known else "None unless validation.every or validation.metrics is set"
        raise UserError(f"validation.keep_best is {chosen.keep_best!r}; it must be {need}")
    return Validation(loss, metrics, better)


def split(config: Config, source: Source) -> tuple[Source, Source | None]:
    """Returns the examples to train on and the held-out ones, shuffled; None if there are none.

    Raises UserError if a part would be empty, and as `open_source` does.
    """
    chosen = config.validation
    if chosen.share > 0:
        return hold_out(source, chosen.share, config.seed)
    if not chosen.data:
        return source, None
    other = open_source(held_out_data(config.data, chosen.data))
    return source, part_of(other, shuffled(len(other), config.seed))


class ValidationLoss:
    """Computes the validation loss; every process of a run calls it together."""

    def __init__(self, experiment: Experiment, mesh: Mesh, held_out: Source):
        """The first `validation.num` of the held-out examples are used."""
        config = experiment.config
        train, self._count = config.train, min(config.validation.num, len(held_out))
        self._experiment, self._mesh, self._source = experiment, mesh, held_out
        part = train.batch_size // train.gradient_accumulation_steps
        # What training computes at once fits in memory, and is split evenly.
        self._size = min(part, -(-self._count // mesh.size) * mesh.size)
        self._rows = local_rows(mesh, self._size)

    def compile(self) -> None:
        """Compiles the program now; the first call would."""
        _ = self._program

    @functools.cached_property
    def _program(self) -> Any:
        params = state_layout(self._experiment, self._mesh).ema
        program = jax.jit(
            self._losses,
            out_shardings=replicated(self._mesh),
            compiler_options=compiler_options(self._mesh.devices.flat[0]),
        )
        first = params[self._experiment.config.train.first_average]
        return program.lower(first, *self._inputs(0)).compile()

    def __call__(self, params: Any) -> float:
        """Returns the mean loss of the parameters over the held-out examples."""
        starts = range(0, self._count, self._size)
        found = [self._program(params, *self._inputs(start)) for start in starts]
        losses = np.concatenate(jax.device_get(found))[: self._count]
        return float(losses.mean(dtype=np.float64))

    def _inputs(self, start: int) -> tuple[Batch, Any, Any, Any]:
        """Returns the batch from example `start` on, its times, its numbers, and the seed."""
        # The last batch is filled up, so that one program serves all.
        places = np.minimum(np.arange(start, start + self._size), self._count - 1)[self._rows]
        t = 1 + (2 * places + 1) * self._experiment.schedule.T // (2 * self._count)
        batch = self._experiment.used(self._source.gather(places))
        rows = batch, t.astype(np.int32), places.astype(np.int32)
        rows = shard_batch(rows, self._mesh, rows=self._rows, size=self._size)
        return *rows, np.uint32(self._experiment.config.seed)

    def _losses(
        self, params: Any, batch: Batch, t: Timesteps, places: jax.Array, seed: jax.Array
    ) -> PerExample:
        experiment = self._experiment
        x_0 = to_unit(jnp.asarray(batch.examples))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(stream_key(seed, "validation"), places)
        eps = jax.vmap(lambda key: jax.random.normal(key, x_0.shape[1:]))(keys)
        x_t = q_sample(experiment.schedule, x_0, t, eps)
        own = jax.vmap(jax.random.fold_in, (None, 0))(stream_key(seed, "condition"), places)
        beside = jax.vmap(experiment.beside)(x_0[:, None], own)
        beside = jax.tree.map(lambda leaf: leaf[:, 0], beside)
        conditioning = experiment.condition(batch.labels, beside=beside)
        drawn = DiffusionInputs(x_0, x_t, eps, t, conditioning, None, labels=batch.labels)
        return experiment.losses(gather_over(self._mesh, params), drawn, train=False)


class PreviewMetrics:
    """Compares the samples of a preview with real examples, by the metrics of a config."""

    def __init__(self, experiment: Experiment, real: Source, training: Source):
        """Features that learn do so from `training`, which is larger than what is held out.

        Raises UserError for a metric that does not exist or does not apply.
        """
        config = experiment.config
        self.num = config.validation.num_samples or config.sample.num
        """How many samples are compared."""
        self._names, shape = config.validation.metrics, tuple(real.shape)
        # It must tell these real examples from those of another run, because states are cached.
        held_out = {"seed": config.seed, "validation": to_dict(config.validation)}
        described = {**to_dict(config.data), **held_out, **describe_source(real)}
        self._real, self._training = ExampleSet(real, described), training
        classes = experiment.num_classes if experiment.class_names else 0
        facts = Facts(shape, shape, len(real), self.num, len(real.class_names), classes)
        facts = facts._replace(num_training=len(training))
        try:
            facts = facts._replace(features=choose_features(None, facts).name)
            judges = choose_metrics(self._names, facts, by_statistics=False)
        except UserError as error:
            where = "validation." if str(error).startswith("metrics") else "validation.metrics: "
            raise UserError(f"{where}{error}") from None
        self.better = {name: it for each in judges for name, it in each.metric.better.items()}

    def __call__(self, drawn: Samples) -> dict[str, float]:
        """Returns the values of all metrics, on every process; all must call it.

        Raises UserError for samples that can't be compared.
        """
        if not np.isfinite(drawn.samples).all():
            raise UserError("the samples are not finite")
        labels = drawn.labels if drawn.class_names else None
        source = ArraySource(drawn.samples[: self.num], labels, drawn.class_names)
        found = evaluate(
            ExampleSet(source, {}), self._names, reference=self._real, training=self._training
        )
        return found.values
