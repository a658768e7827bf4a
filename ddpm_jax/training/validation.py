"""The validation loss: the objective's on held-out examples, at fixed timesteps and noise.

Example i of n has t_i = 1 + ⌊(i + ½) T / n⌋, and noise that depends on the seed and i alone. No
label is dropped and no image is mirrored. So two losses of a run differ by the parameters only.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import Config, held_out_data
from ddpm_jax.data import Source, hold_out, open_source
from ddpm_jax.data.classes import with_classes
from ddpm_jax.data.held_out import part_of, shuffled
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.diffusion import q_sample
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.experiment import Experiment
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.mesh import local_rows, replicated, shard_batch
from ddpm_jax.runtime.random import stream_key
from ddpm_jax.training.step import gather_over, state_layout
from ddpm_jax.typing import Batch, DiffusionInputs, PerExample, Timesteps

LOSS = "validation_loss"

BETTER: dict[str, Callable[[float, float], bool]] = {LOSS: operator.lt}
"""Whether one value is better than another, by the names of values that keep_best may choose."""


def check_values(config: Config) -> None:
    """Raises UserError if keep_best names a value that the run does not compute."""
    wanted, known = config.validation.keep_best, list(_computed(config))
    if wanted is not None and wanted not in known:
        have = f"one of {', '.join(known)}{nearest(wanted, known)}"
        need = have if known else "None unless validation.every is set"
        raise UserError(f"validation.keep_best is {wanted!r}; it must be {need}")


def _computed(config: Config) -> Iterable[str]:
    """Yields the names of the values that a run computes while it trains."""
    if config.validation.every is not None:
        yield LOSS


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


class Validation:
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
        """Compiles the program, which serves all calls."""
        params = state_layout(self._experiment, self._mesh).ema
        program = jax.jit(
            self._losses,
            out_shardings=replicated(self._mesh),
            compiler_options=compiler_options(self._mesh.devices.flat[0]),
        )
        first = params[self._experiment.config.train.first_average]
        self._program = program.lower(first, *self._inputs(0)).compile()

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
        batch = self._source.gather(places)
        batch = batch._replace(labels=self._experiment.condition(batch.labels).labels)
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
        conditioning = experiment.condition(batch.labels)
        drawn = DiffusionInputs(x_0, x_t, eps, t, conditioning, dropout=None)
        return experiment.losses(gather_over(self._mesh, params), drawn, train=False)


def make_validation(
    experiment: Experiment, mesh: Mesh, held_out: Source | None, source: Source
) -> Validation | None:
    """Returns the validation of a run if it has one; `source` is what it trains on.

    Raises UserError if the held-out examples lack the labels that the network takes.
    """
    if held_out is None or experiment.config.validation.every is None:
        return None
    if experiment.num_classes and not held_out.class_names:
        raise UserError(
            "validation.data has no labels, and the network takes them (model.num_classes is "
            f"{experiment.num_classes}); name data with labels"
        )
    if experiment.num_classes:
        held_out = with_classes(held_out, source.class_names)
    return Validation(experiment, mesh, held_out)
