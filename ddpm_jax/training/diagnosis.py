"""Finds where a step stopped being finite: it computes the step again and inspects its parts.

Parameters, seed and step number determine a step, so training keeps nothing for this. The program
is compiled only when it is needed.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ddpm_jax.experiment import Experiment
from ddpm_jax.runtime.mesh import replicated
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import gradient
from ddpm_jax.typing import Batch

_RANGES = 4


@dataclass(frozen=True)
class Diagnosis:
    """A non-finite step, in words and numbers."""

    step: int
    loss: float
    grad_norm: float
    t: np.ndarray
    """int `[B]`, the batch's timesteps."""
    losses: np.ndarray
    """float32 `[B]`"""
    data: list[int]
    """Indices in the batch of the examples with values that are not finite."""
    parameter: str | None
    """The first parameter that is not finite, with the number of such values."""
    gradient: str | None
    """The same for the gradient."""

    @property
    def summary(self) -> str:
        """The first cause that was found, in half a line."""
        if self.data:
            return f"the data of {len(self.data)} example(s) of its batch are not finite"
        if self.parameter:
            return f"the parameter {self.parameter} is not finite"
        if self.gradient:
            return f"the gradient of {self.gradient} is the first that is not finite"
        if not np.isfinite(self.loss) or not np.isfinite(self.grad_norm):
            return "every leaf of the gradient is finite, but their sum is not"
        return "computed again it was finite: rounding or the hardware may be the cause"

    def lines(self) -> list[str]:
        """Returns the report for people."""
        times = " ".join(map(str, self.t[:64])) + (" …" if len(self.t) > 64 else "")
        return [
            f"step {self.step}: loss {self.loss:g}, norm of the gradient {self.grad_norm:g}",
            f"  examples with values that are not finite, by index: {_indices(self.data)}",
            f"  first parameter that is not finite: {self.parameter or 'none'}",
            f"  first gradient that is not finite: {self.gradient or 'none'}",
            *(f"  loss at {line}" for line in self._by_range()),
            f"  t of the batch: {times}",
        ]

    def plain(self) -> dict[str, Any]:
        """Returns the same as JSON values; numbers that may be non-finite are strings."""
        return {
            "nonfinite_step": self.step,
            "loss": str(self.loss),
            "grad_norm": str(self.grad_norm),
            "data": self.data,
            "parameter": self.parameter,
            "gradient": self.gradient,
            "t": self.t.tolist(),
            "losses": [str(value) for value in self.losses.tolist()],
        }

    def _by_range(self) -> list[str]:
        # Split by rank, so that each range has the same number of examples.
        order = np.argsort(self.t, kind="stable")
        lines = []
        for part in np.array_split(order, min(_RANGES, len(order))):
            finite = np.isfinite(self.losses[part])
            mean = f"{self.losses[part][finite].mean():.4g}" if finite.any() else "none finite"
            rest = f", {(~finite).sum()} of {len(part)} not finite" if not finite.all() else ""
            lines.append(f"t {self.t[part[0]]} … {self.t[part[-1]]}: {mean}{rest}")
        return lines


def diagnose(
    experiment: Experiment, mesh: Mesh, state: TrainState, batch: Batch, step: int
) -> Diagnosis:
    """Computes step number `step` again from the same parameters; all processes call it.

    `batch` is the batch of that step, on the mesh. This program rounds differently from the
    training program, so its result may be finite; the report then says so.
    """
    parts = experiment.config.train.gradient_accumulation_steps

    @jax.jit
    def inspect(params: Any, timesteps: Any, batch: Batch, step: jax.Array) -> dict[str, Any]:
        drawn = experiment.draw(batch, step, timesteps)
        loss, losses, grads = gradient(experiment, params, drawn, parts)
        found = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "t": drawn.t,
            "losses": losses,
            "data": ~jnp.isfinite(drawn.x_0).all(axis=tuple(range(1, drawn.x_0.ndim))),
            "params": _count_nonfinite(params),
            "grads": _count_nonfinite(grads),
        }
        return jax.lax.with_sharding_constraint(found, replicated(mesh))

    number = jnp.asarray(step, jnp.int32)
    found = jax.device_get(inspect(state.params, state.timesteps, batch, number))
    return Diagnosis(
        step=step,
        loss=float(found["loss"]),
        grad_norm=float(found["grad_norm"]),
        t=found["t"],
        losses=found["losses"],
        data=np.flatnonzero(found["data"]).tolist(),
        parameter=_first(state.params, found["params"]),
        gradient=_first(state.params, found["grads"]),
    )


def _count_nonfinite(tree: Any) -> list[jax.Array]:
    return [(~jnp.isfinite(leaf)).sum() for leaf in jax.tree.leaves(tree)]


def _first(tree: Any, counts: list[Any]) -> str | None:
    for (path, leaf), count in zip(jax.tree.leaves_with_path(tree), counts, strict=True):
        if count:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            return f"{name} ({int(count):,} of {leaf.size:,} numbers)"
    return None


def _indices(indices: list[int]) -> str:
    return (" ".join(map(str, indices[:16])) + (" …" if len(indices) > 16 else "")) or "none"
