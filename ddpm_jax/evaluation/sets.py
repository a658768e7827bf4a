"""The two sets that an evaluation compares: real examples, and samples, drawn now or stored."""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.config import DataConfig, to_dict
from ddpm_jax.data import describe_source, open_source
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.data.source import ArraySource, Source
from ddpm_jax.evaluation.metrics.metric import LIMIT, subset
from ddpm_jax.evaluation.statistics import Moments
from ddpm_jax.files import StoragePath
from ddpm_jax.sampling.chain import Progress
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.shards import ShardSource, check_draw, describe_samples, sample_shards

# The size of a batch, in numbers: 16 MiB as float32.
_NUMBERS_AT_ONCE = 2**22


class ExampleSet(NamedTuple):
    """A source of examples, and as plain values what made them."""

    source: Source
    described: dict[str, Any]


class Statistics(NamedTuple):
    """Moments of the features of real examples that are not at hand, and where they are from."""

    moments: Moments
    described: dict[str, Any]


class Examples(NamedTuple):
    """Some examples: their places in the set, float32 `[B, *shape]`, labels int `[B]` or None."""

    places: np.ndarray
    examples: np.ndarray
    labels: np.ndarray | None


def set_of_data(config: DataConfig) -> ExampleSet:
    """Returns the examples of a data config; raises UserError as `open_source` does."""
    source = open_source(config)
    return ExampleSet(source, {**to_dict(config), **describe_source(source)})


def batches(source: Source, places: np.ndarray, progress: Progress) -> Iterator[Examples]:
    """Yields the examples at rising places; only one batch is ever held as floats."""
    size = max(1, _NUMBERS_AT_ONCE // math.prod(source.shape))
    for start in range(0, len(places), size):
        part = places[start : start + size]
        batch = source.gather(part)
        examples = np.asarray(to_unit(jnp.asarray(batch.examples)), np.float32)
        yield Examples(part, examples, None if batch.labels is None else np.asarray(batch.labels))
        progress(start + len(part), len(places))


def labels_of(source: Source) -> np.ndarray | None:
    """Returns the label of every example, int `[N]`; None if there are none."""
    if not source.class_names:
        return None
    if isinstance(source, ArraySource):
        return np.asarray(source.labels)
    # Such a source gives labels only along with the examples, which are too many to hold.
    size = max(1, _NUMBERS_AT_ONCE // math.prod(source.shape))
    parts = np.array_split(np.arange(len(source)), math.ceil(len(source) / size))
    return np.concatenate([np.asarray(source.gather(part).labels) for part in parts])


class Draw(NamedTuple):
    """Samples that a run is to draw: their number, labels int32 `[num]` or None, seed, settings."""

    num: int
    labels: np.ndarray | None
    seed: int
    settings: dict[str, Any]


def plan_draw(
    run: Run, real: Source | None, num: int | None, seed: int, settings: dict[str, Any]
) -> Draw:
    """Returns what to draw; by default as many samples as real examples, at most 10,000.

    The samples have the labels of real examples, of a random part of them or of each several times;
    if these have none, the classes take turns. Raises UserError for a number, a seed or settings
    that can't be drawn.
    """
    if num is None:
        num = LIMIT if real is None else min(len(real), LIMIT)
    check_draw(num, seed)
    run.prepare(**settings)
    most = run.options(**settings).batch_size
    # All batches have one size: none is filled up with samples that nobody wants.
    settings = {**settings, "batch_size": math.ceil(num / math.ceil(num / most))}
    classes = run.num_classes
    if not classes:
        return Draw(num, None, seed, settings)
    known = None if real is None else labels_of(real)
    places = np.arange(num)
    if known is None:
        labels = places % classes
    elif num < len(known):
        labels = known[subset(len(known), num)]
    else:
        labels = known[places * len(known) // num]
    return Draw(num, labels.astype(np.int32), seed, settings)


def draw(run: Run, plan: Draw, folder: StoragePath, progress: Progress) -> ExampleSet:
    """Draws the samples that the folder lacks, with all processes, and returns all of them."""
    kept = {"num": plan.num, "seed": plan.seed, "labels": plan.labels, **plan.settings}
    sample_shards(run, folder, progress=progress, **kept)
    chosen = run.options(**plan.settings)
    described = describe_samples(run, chosen, plan.num, plan.seed, None)
    # Thousands of labels say less than how many samples each has.
    described["labels"] = None if plan.labels is None else np.bincount(plan.labels).tolist()
    return ExampleSet(ShardSource(folder), {"run": str(run.folder), **described})


def digest_of(run: Run, plan: Draw) -> str:
    """Returns a short name for what is to be drawn, another for other samples."""
    chosen = run.options(**plan.settings)
    about = describe_samples(run, chosen, plan.num, plan.seed, plan.labels)
    text = json.dumps(about, sort_keys=True)
    return f"{run.step}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
