"""Judging a run: draw the samples that each metric wants, and score them against the data."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data import open_source
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.evaluation.metrics import METRICS, Real, Sets, applicable
from ddpm_jax.sampling.run import Run


def evaluate(
    run: Run,
    metrics: Sequence[str] | None = None,
    *,
    data: DataConfig | None = None,
    seed: int = 0,
    progress: Callable[[str], Callable[[int, int], None]] = lambda title: lambda done, total: None,
) -> dict[str, float]:
    """Returns every metric's values for the run, drawn with the sampler of its config.

    `metrics` are rows of `METRICS`; None takes all that apply to the data. `data` are other
    examples to judge by than those of the training, of the same shape. `progress` is called with a
    metric's name and gives what is told the network steps done and to do. Raises UserError for a
    metric that does not exist or does not apply, and for data that is not there or has another
    shape.
    """
    source = open_source(run.config.data if data is None else data)
    if source.shape != run.config.data.example_shape:
        raise UserError(
            f"data: the examples are {source.shape}, and the run was trained on "
            f"{run.config.data.example_shape}; name data of that shape"
        )
    batch = source.gather(np.arange(len(source)))
    examples = np.asarray(to_unit(jnp.asarray(batch.examples)), np.float32)
    classes = run.config.model.num_classes
    labels = None if batch.labels is None else np.asarray(batch.labels)
    real = Real(source.shape, len(source), labels, classes)
    values: dict[str, float] = {}
    for name in _chosen(metrics, real):
        wanted = METRICS[name].wanted(real)
        drawn = run.sample(
            wanted.size,
            seed=seed,
            labels=None if wanted.labels is None else wanted.labels.tolist(),
            progress=progress(name),
        )
        values |= METRICS[name].score(Sets(examples, labels, drawn.samples, drawn.labels))
    return values


def _chosen(metrics: Sequence[str] | None, real: Real) -> list[str]:
    if not metrics:
        found = list(applicable(real))
        if not found:
            why = "; ".join(f"{name}: {row.obstacle(real)}" for name, row in METRICS.items())
            raise UserError(f"no metric applies to this run ({why})")
        return found
    for name in metrics:
        if name not in METRICS:
            known = ", ".join(METRICS)
            hint = nearest(name, list(METRICS))
            raise UserError(f"--metrics: there is no metric {name}{hint}; there are {known}")
        obstacle = METRICS[name].obstacle(real)
        if obstacle is not None:
            raise UserError(f"--metrics {name}: {obstacle}")
    return list(metrics)
