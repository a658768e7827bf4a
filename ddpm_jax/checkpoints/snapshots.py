"""Snapshots: the averages by a power function at some steps, and any other length made of them.

    snapshots/
      400/        written, checked and committed as a checkpoint; holds these averages alone
      800/

No save removes a snapshot. A run that goes on from an earlier step removes the later ones and
writes them again, so a run that was killed has the snapshots of one that was not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ddpm_jax.averages import LONGEST, Profile, combine, power_lengths
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError, require
from ddpm_jax.files import StoragePath
from ddpm_jax.runtime.distributed import broadcast_from_first

TOLERANCE = 0.02
"""The largest part of a length's profile, in the norm, that its combination may miss.

The parameters are then off by much less: 3e-4 of their norm at 0.2 in a run of 400 steps.
"""
_LENGTHS = np.arange(1, 1000 * LONGEST) / 1000


def snapshots_of(run: StoragePath, *, report: Callable[[str], None] | None = None) -> Checkpoints:
    """Returns the snapshots of a run folder."""
    return Checkpoints(run, report=report, place="snapshots")


def save_snapshot(
    snapshots: Checkpoints,
    step: int,
    ema: Mapping[str, Any],
    config: Config,
    data: Mapping[str, Any],
) -> None:
    """Writes the averages by a power function in the background; all processes call it."""
    kept = {"ema": {name: ema[name] for name in power_lengths(config.train.averages)}}
    snapshots.save(step, kept, config, keep=None, keep_every=None, data=data)


class Lengths:
    """The averages that a checkpoint and the snapshots before it give."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        step: int,
        *,
        report: Callable[[str], None] | None = None,
    ):
        """`report` gets a line for each damaged snapshot, which is left out.

        Raises UserError if the run keeps no averages by a power function, or no snapshots.
        """
        self._run, self._step = checkpoints.run, step
        self._kept = power_lengths(checkpoints.config(step).train.averages)
        snapshots = snapshots_of(checkpoints.run, report=report)

        def good() -> list[int]:
            return [each for each in snapshots.steps() if each < step and snapshots.is_good(each)]

        before = broadcast_from_first(good) if self._kept else []
        if not before:
            raise UserError(
                f"ema_length needs snapshots, and {self._run} has none before step {step}; train "
                'with --train.averages ema "short=power --sigma_rel 0.05" "long=power --sigma_rel '
                '0.1" --train.snapshot_every N'
            )
        self._places = [*((snapshots, each) for each in before), (checkpoints, step)]
        self._known = [Profile(s, at) for _, at in self._places for s in self._kept.values()]

    def available(self) -> np.ndarray:
        """Returns the lengths, in thousandths, whose combinations miss at most TOLERANCE."""
        _, missing = combine(self._known, [Profile(s, self._step) for s in _LENGTHS])
        return _LENGTHS[missing <= TOLERANCE]

    def weights(self, sigma_rel: float) -> np.ndarray:
        """Returns the weight of each kept average, float64 `[snapshots + 1, averages]`.

        Raises UserError for a length that is impossible, or whose profile the snapshots can't
        represent.
        """
        need = "above 0 and at most 0.288"
        require(0 < sigma_rel <= LONGEST, "ema_length", sigma_rel, need)
        weights, missing = combine(self._known, [Profile(sigma_rel, self._step)])
        if missing[0] > TOLERANCE:
            raise UserError(
                f"ema_length is {sigma_rel}; it must be in {_ranges(self.available())}: "
                f"{len(self._places) - 1} snapshots of {self._run} give no others"
            )
        return weights.reshape(len(self._places), len(self._kept))

    def rebuild(self, sigma_rel: float, layout: Any) -> Any:
        """Returns the average of a relative length, in the shapes and shardings of `layout`.

        One snapshot is held at a time. Raises UserError as `weights` does.
        """
        total = None
        for (place, at), row in zip(self._places, self.weights(sigma_rel), strict=True):
            found = place.restore(at, {f"ema.{name}": layout for name in self._kept})
            for tree, weight in zip(found.values(), row.astype(np.float32), strict=True):
                total = _scaled(tree, weight) if total is None else _added(total, tree, weight)
        return total


@jax.jit
def _scaled(tree: Any, weight: Any) -> Any:
    return jax.tree.map(lambda leaf: weight * leaf, tree)


@jax.jit
def _added(total: Any, tree: Any, weight: Any) -> Any:
    return jax.tree.map(lambda sum_, leaf: sum_ + weight * leaf, total, tree)


def _ranges(lengths: np.ndarray) -> str:
    """Returns lengths in thousandths as text: "0.03 … 0.12, 0.15"."""
    parts = np.split(lengths, np.flatnonzero(np.diff(lengths) > 0.0015) + 1)
    return ", ".join(
        f"{part[0]:g} … {part[-1]:g}" if len(part) > 1 else f"{part[0]:g}" for part in parts
    )
