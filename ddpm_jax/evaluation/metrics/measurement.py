"""The contract of a measurement: what a run's network says of real examples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ddpm_jax.evaluation.facts import RunFacts
from ddpm_jax.evaluation.metrics.metric import Better
from ddpm_jax.typing import Conditioning, Denoiser, Examples, Keys

Measure = Callable[
    [Callable[[Conditioning], Denoiser], Examples, Conditioning, Keys], dict[str, jax.Array]
]
"""(conditioning -> the network's denoiser, x_0 `[B, …]`, their conditioning, a key for each) -> the
numbers of each example, arrays `[B, …]` by name. It is traced, and compiled once."""


class Averages(NamedTuple):
    """What a measure gave, over all examples: float64, by name."""

    mean: dict[str, np.ndarray]
    error: dict[str, np.ndarray]
    """The standard error of each mean."""


class Measured(NamedTuple):
    """The values of a measurement, and arrays that are too long to be printed."""

    values: dict[str, float]
    arrays: dict[str, np.ndarray]


class Measurement(NamedTuple):
    """A row of METRICS that needs a run and real examples, but no samples.

    `obstacle` says in a few words why it does not apply, or None if it does. An example's numbers
    may depend on nothing but the example and its key, so the batches and the devices don't matter.
    `better` has the values that one may look for the best of. A measurement is never a default.
    """

    obstacle: Callable[[RunFacts], str | None]
    measure: Callable[[RunFacts], Measure]
    result: Callable[[Averages], Measured]
    better: dict[str, Better]
