"""Batches of a source on the devices of a mesh, as the training step takes them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.data.batches import Batches
from ddpm_jax.data.source import Source
from ddpm_jax.experiment import Experiment
from ddpm_jax.runtime.mesh import local_rows, shard_batch
from ddpm_jax.typing import Batch


class Feed:
    """Gives the batches of a run by step number; close it when done.

    Each process reads the rows of the global batch that its own devices hold. Labels are left out
    if the network takes none.
    """

    def __init__(self, experiment: Experiment, mesh: Mesh, source: Source):
        train = experiment.config.train
        self._experiment, self._mesh = experiment, mesh
        self._size, self._each = train.batch_size, train.steps_per_dispatch
        self._rows = local_rows(mesh, self._size)
        self._batches = Batches(
            source, seed=experiment.config.seed, batch_size=self._size, rows=self._rows
        )

    def __call__(self, step: int) -> Batch:
        """Returns the batches of the dispatch that begins at `step`.

        Arrays are `[B, …]`, or `[steps_per_dispatch, B, …]` if a dispatch takes several steps.
        """
        if self._each == 1:
            return self.single(step)
        batches = [self._local(n) for n in range(step, step + self._each)]
        return self._put(jax.tree.map(lambda *x: np.stack(x), *batches), leading=1)

    def single(self, step: int) -> Batch:
        """Returns the batch of one step, `[B, …]`."""
        return self._put(self._local(step))

    def close(self) -> None:
        """Ends the background work; may be called twice."""
        self._batches.close()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _local(self, step: int) -> Batch:
        return self._experiment.used(self._batches(step))

    def _put(self, batch: Batch, *, leading: int = 0) -> Any:
        return shard_batch(batch, self._mesh, rows=self._rows, size=self._size, leading=leading)
