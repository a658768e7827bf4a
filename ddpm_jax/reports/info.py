"""Facts about a config before it runs: parameters, FLOPs, memory, devices, data."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ddpm_jax.config import Config
from ddpm_jax.data import count_examples, resolve
from ddpm_jax.diffusion import unfit_ends
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.ops import REFERENCE
from ddpm_jax.runtime.memory import planned_bytes
from ddpm_jax.runtime.mesh import fitting_mesh
from ddpm_jax.runtime.switches import pinned, require_compiling
from ddpm_jax.training.step import check_batch, jit_train_step, step_layouts
from ddpm_jax.typing import Conditioning


def count_parameters(experiment: Experiment) -> int:
    """Returns the number of parameters; nothing is computed."""
    shapes = experiment.param_shapes
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def forward_flops(experiment: Experiment) -> int | None:
    """Returns the FLOPs of the network on one example, as XLA counts them before it optimizes.

    A multiplication and an addition are two. They are counted for the reference operations: faster
    forms, such as Winograd's, have fewer. None where the backend does not count.
    """
    experiment = replace(experiment, model=experiment.model.clone(ops=REFERENCE))
    params = experiment.param_shapes
    x_t = jax.ShapeDtypeStruct((1, *experiment.config.data.example_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)

    def forward(params: Any, x_t: Any, t: Any, conditioning: Conditioning) -> Any:
        return experiment.apply(params, x_t, t, conditioning, train=False)

    beside = jax.eval_shape(experiment.beside, x_t, jax.random.key(0))
    conditioning = experiment.condition(t, beside=beside)
    cost = jax.jit(forward).lower(params, x_t, t, conditioning).cost_analysis()
    return int(cost["flops"]) if cost and "flops" in cost else None


def step_memory(experiment: Experiment, mesh: Mesh) -> int | None:
    """Compiles the train step and returns its peak bytes on one device, as the compiler plans them.

    None if the backend does not say.
    """
    require_compiling()
    check_batch(experiment.config, mesh)
    step = jit_train_step(experiment, mesh)
    return planned_bytes(step.lower(*step_layouts(experiment, mesh)).compile())


@pinned()
def describe(
    config: Config, *, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Returns the facts about a config by name; compiles the training step to know its memory.

    `examples` is None if the data are not there yet, and `data` then says why. `report` gets a line
    for each reason why its samples can't be like the data.
    """
    config = resolve(config)
    mesh = fitting_mesh(config.mesh.fsdp)
    experiment = build(config, devices=mesh.size)
    for line in unfit_ends(experiment.schedule):
        report(line)
    try:
        examples, data = count_examples(config.data), config.data.kind
    except UserError as error:
        examples, data = None, str(error)
    return {
        "parameters": count_parameters(experiment),
        "flops_per_sample_forward": forward_flops(experiment),
        "train_step_bytes_per_device": step_memory(experiment, mesh),
        "batch_size": config.train.batch_size,
        "devices": jax.device_count(),
        "platform": jax.devices()[0].device_kind,
        "example_shape": list(config.data.example_shape),
        "examples": examples,
        "data": data,
    }
