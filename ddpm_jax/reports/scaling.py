"""Predictions of what a config needs, and how fast it is, on any number of devices.

The devices need not exist. Nothing is compiled or computed: shapes are traced, and a roofline model
(Williams et al. 2009) turns them into times. Its assumptions are part of the answer.
"""

import math
import textwrap
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from ddpm_jax.config import Config
from ddpm_jax.data import resolve
from ddpm_jax.errors import require
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.reports.communication import Collective, sent
from ddpm_jax.reports.hardware import HARDWARE, Hardware
from ddpm_jax.reports.info import forward_flops
from ddpm_jax.runtime.mesh import abstract_mesh, bytes_per_device
from ddpm_jax.runtime.switches import pinned
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import batch_layout, check_batch, state_layout

SHARE_OF_PEAK = 0.4
"""The fraction of peak matrix-product speed that products are assumed to reach."""

ASSUMPTIONS = (
    *(f"{name}, as published: {each.said}" for name, each in HARDWARE.items()),
    f"products reach {SHARE_OF_PEAK:.0%} of the bfloat16 peak (model.dtype bfloat16), however few "
    "examples a device has",
    "a training step costs as many products as three forward passes (four with model.remat)",
    "a step takes the time of its products, or of writing and reading what the backward pass "
    "needs, whichever is longer; then that of reading and writing the state and the gradient",
    "exchanges use rings and keep all links of a device busy, at half of the two-way rate; at a "
    "quarter in TPU slices that are not a whole torus (below 256 chips of v5e, 64 of v5p)",
    "fsdp gathers each parameter once per step and scatters the sum of its gradient",
    "hidden: exchanges overlap with the backward pass, two thirds of the step; not hidden: they "
    "overlap with nothing",
    "peak bytes are state, gradient, gathered parameters and what JAX keeps for the backward pass, "
    "of which a TPU's compiler keeps 54 %, as it does for configs/cifar10.py; code, and what XLA "
    "needs itself, come on top; on a CPU it undoes model.remat",
)


class Memory(NamedTuple):
    """The bytes of one device in a training step."""

    state: int
    batch: int
    gradient: int
    gathered: int
    """Parameters that are split, made whole for the step."""
    kept: int
    """What the backward pass needs of the forward pass."""

    def peak(self, keeps: float = 1.0) -> int:
        """Returns the sum, where a compiler keeps a share of what JAX would keep."""
        return round(sum(self) - (1 - keeps) * self.kept)


class Exchange(NamedTuple):
    """One exchange of a training step; its members are `stride` devices apart in the mesh."""

    what: str
    collective: Collective
    stride: int = 1


def exchanges(whole: int, split: int, *, data: int, fsdp: int, parts: int = 1) -> list[Exchange]:
    """Returns the exchanges of a training step over (data, fsdp) devices.

    `whole` counts the bytes of the parameters that each device holds whole, `split` those of the
    parameters that are split over fsdp. Gradients are summed over all devices. Each device gathers
    all split parameters, but needs the summed gradient of its own part only (Rajbhandari et al.
    2020, section 7). A batch in `parts` sums a gradient for each part.
    """
    plan = [
        Exchange("gradient", Collective("all-reduce", whole, data * fsdp, parts)),
        Exchange("parameters", Collective("all-gather", split, fsdp)),
        Exchange("gradient", Collective("reduce-scatter", split, fsdp, parts)),
        Exchange("gradient", Collective("all-reduce", split // fsdp, data, parts), stride=fsdp),
    ]
    return [each for each in plan if each.collective.bytes and each.collective.group > 1]


@pinned()
def predict_scaling(config: Config, devices: int) -> dict[str, Any]:
    """Returns bytes per device, exchanges, and predicted times on named hardware.

    Raises UserError if the mesh or the batch can't be split over so many devices.
    """
    require(devices >= 1, "devices", devices, "at least 1")
    config = resolve(config)
    experiment, mesh, layout = _laid_out(config, devices)
    whole, split = parameter_bytes(layout.params)
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    parts = config.train.gradient_accumulation_steps
    plan = exchanges(whole, split, data=data, fsdp=fsdp, parts=parts)
    share = config.train.batch_size // devices
    memory = _memory(experiment, mesh, layout)
    forward = forward_flops(experiment)
    passes = 4 if getattr(config.model, "remat", False) else 3
    found: dict[str, Any] = {
        "devices": devices,
        "data": data,
        "fsdp": fsdp,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(layout.params)),
        "batch_per_device": share,
        "state_bytes_per_device": memory.state,
        "kept_for_backward_bytes_per_device": memory.kept,
        "peak_bytes_per_device": memory.peak(),
        "sent_bytes_per_device_and_step": sent(each.collective for each in plan),
        "exchanges": [{"what": each.what, **each.collective._asdict()} for each in plan],
    }
    if forward is not None:
        work = _Work(
            flops=passes * forward * share,
            activations=2 * parts * memory.kept,
            updated=2 * memory.state + whole + split // fsdp,
            memory=memory,
        )
        found["predicted"] = {
            name: _on(hardware, work, plan, devices)
            for name, hardware in HARDWARE.items()
            if hardware.reaches(devices)
        }
    return found | {"assumptions": list(ASSUMPTIONS)}


@pinned()
def predict_memory(config: Config, devices: int, kept: int | None = None) -> Memory:
    """Returns the bytes of each of so many devices in a training step; raises as the above.

    `kept` is `kept_bytes` of the config's experiment, if it is known already.
    """
    return _memory(*_laid_out(config, devices), kept)


def _laid_out(config: Config, devices: int) -> tuple[Experiment, AbstractMesh, TrainState]:
    mesh = abstract_mesh(config.mesh.fsdp, devices)
    check_batch(config, mesh)
    experiment = build(config, devices=devices)
    return experiment, mesh, state_layout(experiment, mesh)


def _memory(
    experiment: Experiment, mesh: AbstractMesh, layout: TrainState, kept: int | None = None
) -> Memory:
    train = experiment.config.train
    parts = train.gradient_accumulation_steps
    whole, split = parameter_bytes(layout.params)
    return Memory(
        state=bytes_per_device(layout),
        batch=bytes_per_device(batch_layout(experiment, mesh)),
        # With several parts, the sum and the gradient that is added to it are both in memory.
        gradient=(whole + split) * min(parts, 2),
        gathered=split if mesh.shape["fsdp"] > 1 else 0,
        kept=train.batch_size // mesh.size // parts * (kept or kept_bytes(experiment)),
    )


def lines(found: dict[str, Any]) -> list[str]:
    """Returns the answer of `predict_scaling` as lines of text."""
    plain = {
        name.replace("_", " "): f"{value:,}"
        for name, value in found.items()
        if isinstance(value, int)
    }
    width = max(map(len, plain))
    said = [f"{name:<{width}}  {value}" for name, value in plain.items()]
    for each in found["exchanges"]:
        times = f", {each['times']} times" if each["times"] > 1 else ""
        what = f"{each['kind']} of {each['bytes']:,} bytes of {each['what']}{times}"
        said.append(f"{'a step makes':<{width}}  {what}, among {each['group']:,}")
    said += ["", "Predicted, not measured:"]
    for name, row in found.get("predicted", {}).items():
        fits = "" if row["fits"] else "; its memory is too small"
        said.append(
            f"{name:<13}  {row['computing_ms']:,.1f} ms a step computing, "
            f"{row['exchanging_ms']:,.1f} ms exchanging; efficiency "
            f"{row['efficiency_hidden']:.0%} hidden, {row['efficiency_not_hidden']:.0%} not; "
            f"{row['peak_bytes_per_device'] / 1e9:,.2f} GB{fits}"
        )
    said += ["", "Assumed:"]
    for each in found["assumptions"]:
        said += textwrap.wrap(each, 98, initial_indent="- ", subsequent_indent="  ")
    return said


class _Work(NamedTuple):
    """The work of one device in a step."""

    flops: int
    activations: int
    """Bytes written in the forward pass and read in the backward pass."""
    updated: int
    """Bytes read and written by the optimizer."""
    memory: Memory


def _on(hardware: Hardware, work: _Work, plan: list[Exchange], devices: int) -> dict[str, Any]:
    products = work.flops / (SHARE_OF_PEAK * hardware.peak_flops)
    passes = max(products, work.activations / hardware.memory_rate)
    computing = passes + work.updated / hardware.memory_rate
    exchanging = sum(
        hardware.seconds(each.collective, devices=devices, stride=each.stride) for each in plan
    )
    exposed = max(0.0, exchanging - passes * 2 / 3)
    peak = work.memory.peak(hardware.kept)
    return {
        "computing_ms": 1e3 * computing,
        "exchanging_ms": 1e3 * exchanging,
        "efficiency_hidden": computing / (computing + exposed),
        "efficiency_not_hidden": computing / (computing + exchanging),
        "peak_bytes_per_device": peak,
        "fits": peak <= hardware.memory,
        "source": hardware.source,
    }


def parameter_bytes(params: Any) -> tuple[int, int]:
    """Returns the bytes of the parameters that each device holds whole, and those of split ones.

    `params` is a tree of arrays, or of shapes with shardings.
    """
    whole = split = 0
    for leaf in jax.tree.leaves(params):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if leaf.sharding.is_fully_replicated:
            whole += size
        else:
            split += size
    return whole, split


def kept_bytes(experiment: Experiment) -> int:
    """Returns the bytes per example that JAX keeps from the forward pass for the backward pass.

    That is the part that grows with the batch. The parameters are kept too, and counted elsewhere.
    """
    return _residual_bytes(experiment, 2) - _residual_bytes(experiment, 1)


def _residual_bytes(experiment: Experiment, examples: int) -> int:
    params = experiment.param_shapes
    train = replace(experiment.config.train, batch_size=examples, gradient_accumulation_steps=1)
    few = build(replace(experiment.config, train=replace(train, steps_per_dispatch=1)))
    drawn = jax.eval_shape(few.draw, batch_layout(few, abstract_mesh(1, 1)), 0)

    def backward(params: Any, drawn: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(experiment.losses(params, drawn, train=True))

        return jax.vjp(loss, params)[1]

    kept = jax.eval_shape(backward, params, drawn)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
