"""What a config would need and reach on a number of devices that need not be there: predictions.

Nothing is compiled or computed: shapes are traced, and a roofline (Williams et al. 2009) with its
assumptions, which are part of the answer, turns them into times.
"""

import math
import textwrap
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.config import Config
from ddpm_jax.data import resolve
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.reports.communication import Collective, sent
from ddpm_jax.reports.hardware import HARDWARE, Hardware
from ddpm_jax.reports.info import forward_flops
from ddpm_jax.runtime.mesh import abstract_mesh, bytes_per_device
from ddpm_jax.training.step import batch_layout, check_batch, state_layout

SHARE_OF_PEAK = 0.4
"""What products are assumed to reach of the peak."""

ASSUMPTIONS = (
    *(f"{name}, as published: {each.said}" for name, each in HARDWARE.items()),
    f"products reach {SHARE_OF_PEAK:.0%} of the bfloat16 peak (--model.dtype bfloat16), on however "
    "few examples a device",
    "a training step's products are three forward passes (four with --model.remat True)",
    "a step takes the longer of its products and of writing and reading what the backward pass "
    "needs, and then as long as memory takes to read and write the state and read the gradient",
    "exchanges keep all links of a device busy, by rings, at half of the two-way rate; at a "
    "quarter in TPU slices that are no whole torus (below 256 chips of v5e, 64 of v5p)",
    "fsdp gathers each parameter once a step and scatters its gradient's sum",
    "hidden: exchanges go on during the backward pass, two thirds of the step; not: nothing else "
    "happens meanwhile",
    "peak bytes are state, gradient, gathered parameters and what JAX keeps for the backward pass; "
    "XLA may fuse some of that away, and needs room of its own; for a CPU it undoes --model.remat",
)


class Exchange(NamedTuple):
    """What a step's devices have to tell each other, and how far apart those stand that do."""

    what: str
    collective: Collective
    stride: int = 1


def exchanges(whole: int, split: int, *, data: int, fsdp: int, parts: int = 1) -> list[Exchange]:
    """Returns what a training step in `parts` has to exchange over (data, fsdp) devices.

    `whole` are the bytes of the parameters that each device holds, `split` of those that are split
    over fsdp. Gradients are summed over all devices; of the split parameters each device gathers
    all, and needs the sum of its own part's gradient alone (Rajbhandari et al. 2020, section 7).
    A batch in parts has a gradient to sum for each of them.
    """
    plan = [
        Exchange("gradient", Collective("all-reduce", whole, data * fsdp, parts)),
        Exchange("parameters", Collective("all-gather", split, fsdp)),
        Exchange("gradient", Collective("reduce-scatter", split, fsdp, parts)),
        Exchange("gradient", Collective("all-reduce", split // fsdp, data, parts), stride=fsdp),
    ]
    return [each for each in plan if each.collective.bytes and each.collective.group > 1]


def predict(config: Config, devices: int) -> dict[str, Any]:
    """Returns what `ddpm info --devices` prints: bytes a device, and times on named hardware.

    Raises UserError if the mesh or the batch can't be split over so many devices.
    """
    if devices < 1:
        raise UserError(f"--devices is {devices}; it must be at least 1")
    config = resolve(config)
    mesh = abstract_mesh(config.mesh.fsdp, devices)
    check_batch(config, mesh)
    experiment = build(config, devices=devices)
    layout = state_layout(experiment, mesh)
    whole, split = parameter_bytes(layout.params)
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    parts = config.train.gradient_accumulation_steps
    plan = exchanges(whole, split, data=data, fsdp=fsdp, parts=parts)
    share = config.train.batch_size // devices
    state = bytes_per_device(layout)
    kept = share // parts * kept_bytes(experiment)
    gathered = split if fsdp > 1 else 0
    batch = bytes_per_device(batch_layout(experiment, mesh))
    # In parts, one gradient is added to another.
    peak = state + batch + (whole + split) * min(parts, 2) + gathered + kept
    forward = forward_flops(experiment)
    passes = 4 if getattr(config.model, "remat", False) else 3
    found: dict[str, Any] = {
        "devices": devices,
        "data": data,
        "fsdp": fsdp,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(layout.params)),
        "batch_per_device": share,
        "state_bytes_per_device": state,
        "kept_for_backward_bytes_per_device": kept,
        "peak_bytes_per_device": peak,
        "sent_bytes_per_device_and_step": sent(each.collective for each in plan),
        "exchanges": [{"what": each.what, **each.collective._asdict()} for each in plan],
    }
    if forward is not None:
        work = _Work(
            flops=passes * forward * share,
            passed=2 * parts * kept,
            updated=2 * state + whole + split // fsdp,
            peak=peak,
        )
        found["predicted"] = {
            name: _on(hardware, work, plan, devices) for name, hardware in HARDWARE.items()
        }
    return found | {"assumptions": list(ASSUMPTIONS)}


def lines(found: dict[str, Any]) -> list[str]:
    """Returns `predict`'s answer as people read it."""
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
            f"{name:<8}  {row['computing_ms']:,.1f} ms a step computing, "
            f"{row['exchanging_ms']:,.1f} ms exchanging; efficiency "
            f"{row['efficiency_hidden']:.0%} hidden, {row['efficiency_not_hidden']:.0%} not{fits}"
        )
    said += ["", "Assumed:"]
    for each in found["assumptions"]:
        said += textwrap.wrap(each, 98, initial_indent="- ", subsequent_indent="  ")
    return said


class _Work(NamedTuple):
    """What one device does in a step."""

    flops: int
    passed: int
    """Bytes written in the forward pass and read in the backward pass."""
    updated: int
    """Bytes read and written by the optimizer."""
    peak: int


def _on(hardware: Hardware, work: _Work, plan: list[Exchange], devices: int) -> dict[str, Any]:
    products = work.flops / (SHARE_OF_PEAK * hardware.peak_flops)
    passes = max(products, work.passed / hardware.memory_rate)
    computing = passes + work.updated / hardware.memory_rate
    told = sum(
        hardware.seconds(each.collective, devices=devices, stride=each.stride) for each in plan
    )
    left = max(0.0, told - passes * 2 / 3)
    return {
        "computing_ms": 1e3 * computing,
        "exchanging_ms": 1e3 * told,
        "efficiency_hidden": computing / (computing + left),
        "efficiency_not_hidden": computing / (computing + told),
        "fits": work.peak <= hardware.memory,
        "source": hardware.source,
    }


def parameter_bytes(params: Any) -> tuple[int, int]:
    """Returns the bytes of the parameters that each device holds whole, and of the split ones.

    `params` are arrays, or their shapes with shardings.
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
    """Returns the bytes that JAX keeps of each example from the forward pass for the backward one.

    That is what grows with the batch: the parameters are kept too, and are counted elsewhere.
    """
    return _residual_bytes(experiment, 2) - _residual_bytes(experiment, 1)


def _residual_bytes(experiment: Experiment, examples: int) -> int:
    params = jax.eval_shape(experiment.init_params, jax.random.key(0))
    train = replace(experiment.config.train, batch_size=examples, gradient_accumulation_steps=1)
    few = build(replace(experiment.config, train=replace(train, steps_per_dispatch=1)))
    drawn = jax.eval_shape(few.draw, batch_layout(few, abstract_mesh(1, 1)), 0)

    def backward(params: Any, drawn: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(experiment.losses(params, drawn, train=True))

        return jax.vjp(loss, params)[1]

    kept = jax.eval_shape(backward, params, drawn)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
