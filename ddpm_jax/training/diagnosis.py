"""Where a step stopped being finite: the step computed once more, with all that it leaves out.

A step follows from parameters, seed and number alone, so nothing of this is kept while training:
it is compiled on the day it is needed.
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
from ddpm_jax.training.step import gradient, losses
from ddpm_jax.typing import Batch

_RANGES = 4


@dataclass(frozen=True)
class Diagnosis:
    """A step that was bad, in words and numbers."""

    step: int
    loss: float
    grad_norm: float
    t: np.ndarray
    """int `[B]`, the batch's timesteps."""
    losses: np.ndarray
    """float32 `[B]`"""
    data: list[int]
    """Places in the batch of the examples that hold numbers which are not finite."""
    parameter: str | None
    """The first parameter that is not finite, with how much of it."""
    gradient: str | None

    @property
    def summary(self) -> str:
        """What failed first, in half a line."""
        if self.data:
            return f"the data of {len(self.data)} example(s) of its batch are not finite"
        if self.parameter:
            return f"the parameter {self.parameter} is not finite"
        if self.gradient:
            return f"the gradient of {self.gradient} is the first that is not finite"
        if not np.isfinite(self.loss) or not np.isfinite(self.grad_norm):
            return "every leaf of the gradient is finite, their sum is not"
        return "computed once more it was finite: look at the rounding, or at the machine"

    def lines(self) -> list[str]:
        """The report for people."""
        times = " ".join(map(str, self.t[:64])) + (" …" if len(self.t) > 64 else "")
        return [
            f"step {self.step}: loss {self.loss:g}, norm of the gradient {self.grad_norm:g}",
            f"  data that are not finite, by place in the batch: {_places(self.data)}",
            f"  first parameter that is not finite: {self.parameter or 'none'}",
            f"  first gradient that is not finite: {self.gradient or 'none'}",
            *(f"  loss at {line}" for line in self._by_range()),
            f"  t of the batch: {times}",
        ]

    def plain(self) -> dict[str, Any]:
        """The same as JSON takes it, numbers that are not finite as words."""
        return {
            "bad_step": self.step,
            "loss": str(self.loss),
            "grad_norm": str(self.grad_norm),
            "data": self.data,
            "parameter": self.parameter,
            "gradient": self.gradient,
            "t": self.t.tolist(),
            "losses": [str(value) for value in self.losses.tolist()],
        }

    def _by_range(self) -> list[str]:
        # By rank, not by width: each range has as many examples as the next one.
        order = np.argsort(self.t, kind="stable")
        lines = []
        for part in np.array_split(order, min(_RANGES, len(order))):
            finite = np.isfinite(self.losses[part])
            mean = f"{self.losses[part][finite].mean():.4g}" if finite.any() else "none finite"
            bad = f", {(~finite).sum()} of {len(part)} not finite" if not finite.all() else ""
            lines.append(f"t {self.t[part[0]]} … {self.t[part[-1]]}: {mean}{bad}")
        return lines


def diagnose(experiment: Experiment, mesh: Mesh, params: Any, batch: Batch, step: int) -> Diagnosis:
    """Computes a step anew from the parameters it met; all processes call it.

    `batch` is the step's, on the mesh. The program is another one than the training's: what hung on
    its rounding may come out finite here, and the report then says so.
    """

    @jax.jit
    def look(params: Any, batch: Batch, step: jax.Array) -> dict[str, Any]:
        drawn = experiment.draw(batch, step)
        parts = experiment.config.train.gradient_accumulation_steps
        loss, grads = gradient(experiment, params, drawn, parts)
        found = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "t": drawn.t,
            "losses": losses(experiment, params, drawn, parts),
            "data": ~jnp.isfinite(drawn.x_0).all(axis=tuple(range(1, drawn.x_0.ndim))),
            "params": _bad_numbers(params),
            "grads": _bad_numbers(grads),
        }
        return jax.lax.with_sharding_constraint(found, replicated(mesh))

    found = jax.device_get(look(params, batch, jnp.asarray(step, jnp.int32)))
    return Diagnosis(
        step=step,
        loss=float(found["loss"]),
        grad_norm=float(found["grad_norm"]),
        t=found["t"],
        losses=found["losses"],
        data=np.flatnonzero(found["data"]).tolist(),
        parameter=_first(params, found["params"]),
        gradient=_first(params, found["grads"]),
    )


def _bad_numbers(tree: Any) -> list[jax.Array]:
    return [(~jnp.isfinite(leaf)).sum() for leaf in jax.tree.leaves(tree)]


def _first(tree: Any, counts: list[Any]) -> str | None:
    for (path, leaf), count in zip(jax.tree.leaves_with_path(tree), counts, strict=True):
        if count:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            return f"{name} ({int(count):,} of {leaf.size:,} numbers)"
    return None


def _places(places: list[int]) -> str:
    return (" ".join(map(str, places[:16])) + (" …" if len(places) > 16 else "")) or "none"
