"""What a watcher sees of chains while they run."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.runtime.mesh import fetch


class Seen(NamedTuple):
    """Chains at their start, or at the end of an interval."""

    done: int
    """Intervals made, of all batches."""
    total: int
    t: float
    x: np.ndarray
    """x_t, float32 `[B, …]`."""
    x_0: np.ndarray
    """The last x̂_0 `[B, …]`; zeros at the start."""


Watch = Callable[[Seen], None]


def shown(
    watch: Watch, chain: Iterator[tuple[int, Any]], times: np.ndarray, *, batch: tuple[int, int]
) -> Iterator[tuple[int, Any]]:
    """Yields a batch's chain, (intervals done, carry), and shows it each time.

    `batch` is its number and how many there are.
    """
    steps = len(times) - 1
    for done, carry in chain:
        x, x_0 = fetch(carry.x), fetch(carry.x_0)
        watch(Seen(batch[0] * steps + done, batch[1] * steps, float(times[done]), x, x_0))
        yield done, carry
