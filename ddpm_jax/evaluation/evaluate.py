"""Evaluation of a run: one draw of samples and one pass over the data serve all metrics."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data import Source, open_source
from ddpm_jax.data.classes import with_classes
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.evaluation.draw import choose_samples, plan_draw
from ddpm_jax.evaluation.features import FEATURES, Extract
from ddpm_jax.evaluation.metrics import METRICS, RealData, applicable, obstacle
from ddpm_jax.runtime.switches import pinned
from ddpm_jax.sampling.run import Run

Progress = Callable[[int, int], None]

# The size of a batch of real examples, in numbers: 128 MiB in float64.
_NUMBERS_AT_ONCE = 2**24


class _Batch(NamedTuple):
    """Some examples with their indices in the data or in the draw."""

    indices: np.ndarray
    examples: np.ndarray
    labels: np.ndarray | None


@pinned()
def evaluate(
    run: Run,
    metrics: Sequence[str] | None = None,
    *,
    data: DataConfig | None = None,
    seed: int = 0,
    progress: Callable[[str], Progress] = lambda title: lambda done, total: None,
) -> dict[str, float]:
    """Returns each metric's values by name, for samples drawn with the sampler of the run's config.

    `metrics` are rows of METRICS; None takes all that apply. `data` replaces the training data as
    the real examples; its shape must be the same. The samples are drawn once for all metrics (see
    `evaluation.draw`). `progress` is called with a title and returns a function that
    receives the work done and the work in all. Raises UserError for a metric that does not exist or
    does not apply, and for data that are missing, of another shape or of other classes.
    """
    source = open_source(run.config.data if data is None else data)
    if source.shape != run.config.data.example_shape:
        raise UserError(
            f"data: the examples are {source.shape}, and the run was trained on "
            f"{run.config.data.example_shape}; name data of that shape"
        )
    if run.class_names:
        source = with_classes(source, run.class_names)
    facts = RealData(source.shape, len(source), _labels(source), run.config.model.num_classes)
    names = _chosen(metrics, facts)
    requests = {name: METRICS[name].request(facts) for name in names}
    num, labels = plan_draw(list(requests.values()))
    extractors = {name: FEATURES[name].load() for name in {METRICS[it].features for it in names}}
    compared = {name: request.real for name, request in requests.items()}
    chosen = {name: choose_samples(request, labels) for name, request in requests.items()}
    batches = _real_batches(source, compared.values(), progress("reading the data"))
    real = _states(batches, compared, extractors)
    batches = _sample_batches(run, num, labels, seed, progress("sampling"))
    samples = _states(batches, chosen, extractors)
    values: dict[str, float] = {}
    for name in names:
        values |= METRICS[name].result(real.pop(name), samples.pop(name))
    return values


def _states(
    batches: Iterable[_Batch], wanted: dict[str, np.ndarray], extractors: dict[str, Extract]
) -> dict[str, Any]:
    """Returns the state of each metric after the examples whose indices it wants."""
    states = {name: METRICS[name].init() for name in wanted}
    for batch in batches:
        features = {name: extract(batch.examples) for name, extract in extractors.items()}
        for name, indices in wanted.items():
            rows = np.isin(batch.indices, indices)
            if rows.any():
                labels = None if batch.labels is None else batch.labels[rows]
                found = features[METRICS[name].features]
                # Metrics that take the whole batch share one array.
                found = found if rows.all() else found[rows]
                states[name] = METRICS[name].update(states[name], found, labels)
    return states


def _real_batches(
    source: Source, wanted: Iterable[np.ndarray], progress: Progress
) -> Iterator[_Batch]:
    """Reads the real examples that any metric compares; only one batch is held as floats."""
    indices = np.unique(np.concatenate(list(wanted)))
    size = max(1, _NUMBERS_AT_ONCE // math.prod(source.shape))
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        batch = source.gather(part)
        examples = np.asarray(to_unit(jnp.asarray(batch.examples)), np.float32)
        yield _Batch(part, examples, None if batch.labels is None else np.asarray(batch.labels))
        progress(start + len(part), len(indices))


def _sample_batches(
    run: Run, num: int, labels: np.ndarray | None, seed: int, progress: Progress
) -> Iterator[_Batch]:
    """Draws samples 0 … num-1 of a seed, in batches of the config's size."""
    size = min(num, run.config.sample.batch_size)
    count = math.ceil(num / size)
    for k in range(count):
        # The last batch is filled up, so that one compiled program serves all.
        places = np.arange(k * size, (k + 1) * size)
        drawn = run.sample(
            size,
            first=k * size,
            seed=seed,
            labels=None if labels is None else labels[np.minimum(places, num - 1)],
            progress=lambda done, total, k=k: progress(k * total + done, count * total),
        )
        kept = min(size, num - k * size)
        asked = None if drawn.labels is None else drawn.labels[:kept]
        yield _Batch(places[:kept], drawn.samples[:kept], asked)


def _labels(source: Source) -> np.ndarray | None:
    """Returns the label of every example, int `[N]`; None if the data have none."""
    if not source.class_names:
        return None
    if isinstance(source, ArraySource):
        return np.asarray(source.labels)
    # Such a source gives labels only along with the examples, which are too many to hold.
    size = max(1, _NUMBERS_AT_ONCE // math.prod(source.shape))
    parts = np.array_split(np.arange(len(source)), math.ceil(len(source) / size))
    return np.concatenate([np.asarray(source.gather(part).labels) for part in parts])


def _chosen(metrics: Sequence[str] | None, real: RealData) -> list[str]:
    if not metrics:
        found = list(applicable(real))
        if not found:
            why = "; ".join(f"{name}: {obstacle(row, real)}" for name, row in METRICS.items())
            raise UserError(f"no metric applies to this run ({why})")
        return found
    for name in metrics:
        if name not in METRICS:
            known = ", ".join(METRICS)
            hint = nearest(name, list(METRICS))
            raise UserError(f"metrics: there is no metric {name}{hint}; there are {known}")
        reason = obstacle(METRICS[name], real)
        if reason is not None:
            raise UserError(f"the metric {name} does not apply: {reason}")
    return list(dict.fromkeys(metrics))
