"""The contract of a metric: what it compares, and how it is computed."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from ddpm_jax.data.held_out import shuffled
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.statistics import Collected, FeatureSet, Moments, collect, joined

LIMIT = 10_000
"""Most examples that a metric of quadratic cost compares: brute force then takes seconds."""

Better = Literal["lower", "higher"]


def no_caution(facts: Facts, samples: Any) -> str | None:
    """Returns None: there is nothing to say."""
    del facts, samples


class Metric(NamedTuple):
    """A comparison of samples with real examples, as pure functions over batches of features.

        state = init()                              NamedTuple of arrays, or of tuples of arrays
        state = update(state, features, labels)     Features, int [B] or None
        scores = result(state_of_real, state_of_samples)

    Real examples and samples have a state each, and the batches may not matter. `obstacle` says in
    a few words why the metric does not apply, or None if it does. `better` has the values that one
    may look for the best of. `features` is a row of FEATURES; None for the one that is chosen.
    `most` bounds the examples compared on each side, chosen at random. `moments` turns known
    statistics of the real examples into their state; None if they are not enough. `caution` says,
    of the samples' state, what must stand beside the values, or None. `default` says whether it is
    computed without being named.
    """

    obstacle: Callable[[Facts], str | None]
    init: Callable[[], Any]
    update: Callable[[Any, Features, np.ndarray | None], Any]
    result: Callable[[Any, Any], dict[str, float]]
    better: dict[str, Better]
    features: str | None = None
    most: int | None = None
    moments: Callable[[Moments], Any] | None = None
    caution: Callable[[Facts, Any], str | None] = no_caution
    default: bool = True


def metric_of_sets(
    compare: Callable[[FeatureSet, FeatureSet], dict[str, float]],
    obstacle: Callable[[Facts], str | None],
    **more: Any,
) -> Metric:
    """Returns the metric that keeps all features and compares the two sets (real, samples)."""

    def result(real: Collected, samples: Collected) -> dict[str, float]:
        return compare(joined(real), joined(samples))

    return Metric(obstacle, Collected, collect, result, **more)


def subset(n: int, most: int | None) -> np.ndarray:
    """Returns the rising indices `[min(n, most)]` of some of n examples, the same ones each time.

    They are chosen at random: every second example may have a class of every second number.
    """
    if most is None or n <= most:
        return np.arange(n)
    return np.sort(shuffled(n, 0)[:most])


def need_more_than(count: int) -> Callable[[Facts], str | None]:
    """Returns the obstacle of sets that have no more than `count` members."""

    def obstacle(facts: Facts) -> str | None:
        if min(facts.num_real, facts.num_samples) > count:
            return None
        return f"it needs more than {count} real examples and samples"

    return obstacle
