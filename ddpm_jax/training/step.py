"""The training step: a pure function of state and batch, compiled once over the mesh."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh

from ddpm_jax.averages import ema_update, make_averages
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import DiffusionInputs, Experiment
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.mesh import (
    batch_sharding,
    gather_over,
    replicated,
    state_shardings,
    with_shardings,
)
from ddpm_jax.training.state import TrainState, first_state, init_state
from ddpm_jax.typing import Batch, PerExample

Metrics = dict[str, jax.Array]


class StepInputs(NamedTuple):
    """What a step is told besides state and batch: no program contains it, so one serves all."""

    seed: Any
    """uint32, the run's."""
    learning_rate: Any
    """float32, a scalar, or one for each step of a dispatch."""
    nonfinite_limit: Any
    """int32, how many steps in a row may be non-finite before the state stands still."""


TrainStep = Callable[[TrainState, Batch, StepInputs], tuple[TrainState, Metrics]]


def step_inputs(experiment: Experiment, step: int) -> StepInputs:
    """Returns the inputs of the dispatch that begins at `step`, as NumPy's numbers."""
    config = experiment.config
    each = config.train.steps_per_dispatch
    steps = np.arange(step, step + each) if each > 1 else step
    rate, limit = experiment.learning_rate(steps), np.int32(config.train.nonfinite_limit)
    return StepInputs(np.uint32(config.seed), rate, limit)


def make_train_step(experiment: Experiment, mesh: Mesh | None = None) -> TrainStep:
    """Returns `train_step(state, batch, inputs) -> (state, metrics)`: Ho et al. 2020, algorithm 1.

    It draws what the experiment draws for the batch, then calls `make_update`'s function.
    """
    update = make_update(experiment, mesh)

    def train_step(
        state: TrainState, batch: Batch, inputs: StepInputs
    ) -> tuple[TrainState, Metrics]:
        drawn = experiment.draw(batch, state.step, state.timesteps, seed=inputs.seed)
        return update(state, drawn, inputs)

    return train_step


def make_update(
    experiment: Experiment, mesh: Mesh | None = None
) -> Callable[[TrainState, DiffusionInputs, StepInputs], tuple[TrainState, Metrics]]:
    """Returns `update(state, drawn, inputs) -> (state, metrics)`, which draws nothing.

    `metrics` are scalars: loss, grad_norm before clipping and learning_rate in float32, and
    `nonfinite`, the new state's count. A step whose loss or gradient is not finite changes nothing
    but that count and the step. After `train.nonfinite_limit` of them in a row the state no longer
    changes, whatever batches follow. So the host may read the count late and still find the
    parameters that failed. `mesh` holds the devices, if there are several.
    """
    train = experiment.config.train
    averages = make_averages(train.averages)

    def update(
        state: TrainState, drawn: DiffusionInputs, inputs: StepInputs
    ) -> tuple[TrainState, Metrics]:
        loss, losses, grads = gradient(
            experiment, gather_over(mesh, state.params), drawn, train.gradient_accumulation_steps
        )
        grads = _scatter_over(mesh, grads)
        # If any number of any leaf is not finite, the norm is not finite.
        with jax.named_scope("optimizer"):
            norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        stopped = state.nonfinite >= inputs.nonfinite_limit
        good = finite & ~stopped
        # Scopes name the parts of the step in profiles and in what a compiler says.
        with jax.named_scope("optimizer"):
            updates, opt_state = experiment.optimizer.update(
                grads, state.opt_state, state.params, learning_rate=inputs.learning_rate, good=good
            )
            # Each leaf is chosen from its own old value alone. So every buffer of the state, which
            # is donated, can be written in place.
            params = _choose(good, optax.apply_updates(state.params, updates), state.params)
        with jax.named_scope("averages"):
            ema = ema_update(averages, state.ema, params, state.step + 1)
            ema = _choose(good, ema, state.ema)
        after = TrainState(
            step=jnp.where(stopped, state.step, state.step + 1),
            params=params,
            ema=ema,
            opt_state=opt_state,
            nonfinite=jnp.where(
                stopped, state.nonfinite, jnp.where(finite, 0, state.nonfinite + 1)
            ),
            timesteps=_next_timesteps(experiment, mesh, good, state.timesteps, drawn.t, losses),
        )
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": inputs.learning_rate,
            "nonfinite": after.nonfinite,
        }
        return after, metrics

    return update


def _choose(good: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)


def _next_timesteps(
    experiment: Experiment,
    mesh: Mesh | None,
    good: jax.Array,
    state: Any,
    t: jax.Array,
    losses: PerExample,
) -> Any:
    """Returns the timestep sampler's state after a step; every device computes all of it."""
    if state is None:
        return None
    if mesh is not None:
        t, losses = jax.lax.with_sharding_constraint((t, losses), replicated(mesh))
    return _choose(good, experiment.timestep_sampler.update(state, t, losses), state)


def _scatter_over(mesh: Mesh | None, grads: Any) -> Any:
    """Splits a gradient over a mesh as the parameters are split."""
    if mesh is None or mesh.shape["fsdp"] == 1:
        return grads
    # First the sum on every device; XLA turns both steps into one reduce-scatter if it can.
    # Otherwise it would split the products too, and the activations that go into them.
    whole = jax.lax.with_sharding_constraint(grads, replicated(mesh))
    return jax.lax.with_sharding_constraint(whole, state_shardings(grads, mesh))


def gradient(
    experiment: Experiment, params: Any, drawn: DiffusionInputs, parts: int
) -> tuple[jax.Array, PerExample, Any]:
    """Returns the mean loss, the losses `[B]`, and the gradient of the mean.

    The mean is weighted by `drawn.weight`, the losses are not. The batch is computed in `parts`,
    one after the other.
    """

    def mean_loss(params: Any, drawn: DiffusionInputs) -> tuple[jax.Array, PerExample]:
        losses = experiment.losses(params, drawn, train=True)
        weighted = losses if drawn.weight is None else drawn.weight * losses
        return jnp.mean(weighted), losses

    compute = jax.value_and_grad(mean_loss, has_aux=True)
    if parts == 1:
        (loss, losses), grads = compute(params, drawn)
        return loss, losses, grads

    def add(total: Any, piece: tuple[DiffusionInputs, jax.Array]) -> tuple[Any, PerExample]:
        part, key = piece
        (loss, losses), grads = compute(params, part._replace(dropout=key))
        return jax.tree.map(jnp.add, total, (loss, grads)), losses

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, losses = jax.lax.scan(add, zero, _split(drawn, parts))
    loss, grads = jax.tree.map(lambda x: x / parts, total)
    return loss, jnp.moveaxis(losses, 0, 1).reshape(-1), grads


def _split(drawn: DiffusionInputs, parts: int) -> tuple[DiffusionInputs, jax.Array]:
    """Stacks the parts of a batch on a leading axis, with a dropout key for each."""

    def split(x: jax.Array) -> jax.Array:
        # Every parts-th example: each device keeps its own rows, and nothing crosses the mesh.
        return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

    return jax.tree.map(split, drawn._replace(dropout=None)), jax.random.split(drawn.dropout, parts)


def make_multi_step(experiment: Experiment, mesh: Mesh | None = None) -> TrainStep:
    """Returns a step over batches stacked on a leading axis; its metrics are stacked likewise.

    The random numbers of all steps are drawn first, together: for small draws, a hundred cost as
    much as one, which on a CPU is a tenth of a small network's step. A timestep sampler with a
    history must draw step by step.
    """
    update = make_update(experiment, mesh)

    def steps(state: TrainState, batches: Batch, inputs: StepInputs) -> tuple[TrainState, Metrics]:
        count = len(batches.examples)
        each = jax.tree.map(lambda x: jnp.broadcast_to(x, count), inputs)
        if state.timesteps is not None:
            step = make_train_step(experiment, mesh)
            return jax.lax.scan(lambda state, it: step(state, *it), state, (batches, each))
        draw = functools.partial(experiment.draw, seed=inputs.seed)
        drawn = jax.vmap(draw)(batches, state.step + jnp.arange(count))
        return jax.lax.scan(lambda state, it: update(state, *it), state, (drawn, each))

    return steps


def check_batch(config: Config, mesh: Mesh | AbstractMesh) -> None:
    """Raises UserError if a part of the batch can't be split evenly over the devices."""
    part = config.train.batch_size // config.train.gradient_accumulation_steps
    if part % mesh.size:
        better = (
            max(1, round(part / mesh.size)) * mesh.size * config.train.gradient_accumulation_steps
        )
        raise UserError(
            f"train.batch_size {config.train.batch_size} in "
            f"{config.train.gradient_accumulation_steps} part(s) can't be split over "
            f"{mesh.size} devices; train.batch_size {better} can"
        )


def state_layout(experiment: Experiment, mesh: Mesh | AbstractMesh) -> TrainState:
    """Returns the state as shapes with shardings; nothing is computed."""
    shapes = jax.eval_shape(functools.partial(first_state, experiment), experiment.param_shapes)
    layout = with_shardings(shapes, mesh)
    # Every device draws the timesteps of the whole batch, so each needs the sampler's whole state.
    whole = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        layout.timesteps,
    )
    return layout._replace(timesteps=whole)


def _shardings(experiment: Experiment, mesh: Mesh) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, state_layout(experiment, mesh))


def jit_init(experiment: Experiment, mesh: Mesh) -> Any:
    """Jits `init(seed) -> state`, straight into its shards: no device ever holds all of it."""
    return jax.jit(
        functools.partial(init_state, experiment),
        out_shardings=_shardings(experiment, mesh),
        compiler_options=compiler_options(mesh.devices.flat[0], once=True),
    )


def draw_state(experiment: Experiment, mesh: Mesh) -> TrainState:
    """Returns the state before the first step, on the mesh."""
    return jit_init(experiment, mesh)(np.uint32(experiment.config.seed))


def jit_train_step(experiment: Experiment, mesh: Mesh) -> Any:
    """Jits the step (or several per dispatch) over the mesh; the state passed to it is donated."""
    shardings = _shardings(experiment, mesh)
    several = experiment.config.train.steps_per_dispatch > 1
    make, leading = (make_multi_step, 1) if several else (make_train_step, 0)
    return jax.jit(
        make(experiment, mesh),
        in_shardings=(shardings, batch_sharding(mesh, leading=leading), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh.devices.flat[0]),
    )


def batch_layout(experiment: Experiment, mesh: Mesh | AbstractMesh) -> Batch:
    """Returns the batch that the jitted step takes, as shapes with shardings."""
    config = experiment.config
    several = config.train.steps_per_dispatch > 1
    leading = (config.train.steps_per_dispatch,) if several else ()
    sharding = batch_sharding(mesh, leading=len(leading))

    def shape(*axes: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((*leading, *axes), dtype, sharding=sharding)

    size = config.train.batch_size
    pixels = jnp.uint8 if len(config.data.example_shape) == 3 else jnp.float32
    labels = shape(size, dtype=jnp.int32) if experiment.num_classes else None
    return Batch(shape(size, *config.data.example_shape, dtype=pixels), labels)


def step_layouts(experiment: Experiment, mesh: Mesh) -> tuple[TrainState, Batch, StepInputs]:
    """Returns what the jitted step is lowered with: shapes and shardings of its arguments."""
    state, batch = state_layout(experiment, mesh), batch_layout(experiment, mesh)
    return state, batch, step_inputs(experiment, 0)
