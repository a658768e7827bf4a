"""The training step: a pure function of state and batch, compiled once over the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import DiffusionInputs, Experiment
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.mesh import batch_sharding, replicated, state_shardings, with_shardings
from ddpm_jax.training.state import TrainState, ema_update, init_state
from ddpm_jax.typing import Batch, PerExample

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(experiment: Experiment, mesh: Mesh | None = None) -> TrainStep:
    """Returns `train_step(state, batch) -> (state, metrics)`: Ho et al. 2020, algorithm 1.

    It is `make_update`'s, of what the experiment draws for the batch.
    """
    update = make_update(experiment, mesh)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return update(state, experiment.draw(batch, state.step))

    return train_step


def make_update(
    experiment: Experiment, mesh: Mesh | None = None
) -> Callable[[TrainState, DiffusionInputs], tuple[TrainState, Metrics]]:
    """Returns `update(state, drawn) -> (state, metrics)`, which draws nothing itself.

    `metrics` are scalars: loss, grad_norm before clipping and learning_rate in float32, and `bad`,
    the new state's count. A step is bad if its loss or gradient is not finite: it counts, and
    changes nothing else. After `train.nonfinite_limit` of them in a row the state stands still,
    whatever batches follow: the host may learn of it late, and still finds the parameters that
    failed.
    `mesh` is that of the devices, if parameters are split over some.
    """
    train = experiment.config.train
    gathered, scattered = _split_over(mesh)

    def update(state: TrainState, drawn: DiffusionInputs) -> tuple[TrainState, Metrics]:
        loss, grads = gradient(
            experiment, gathered(state.params), drawn, train.gradient_accumulation_steps
        )
        grads = scattered(grads)
        # One number that is not finite, in any leaf, and the norm is not.
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        still = state.bad >= train.nonfinite_limit
        moves = good & ~still
        updates, opt_state = experiment.optimizer.update(
            grads, state.opt_state, state.params, step=state.step, good=moves
        )
        # What is left out is left out leaf by leaf, each from its own old value alone: so every
        # buffer of the state, which is donated, is written in its place.
        params = _moved(moves, optax.apply_updates(state.params, updates), state.params)
        ema = ema_update(state.ema, params, state.step + 1, train.ema_decay)
        after = TrainState(
            step=jnp.where(still, state.step, state.step + 1),
            params=params,
            ema=_moved(moves, ema, state.ema),
            opt_state=opt_state,
            bad=jnp.where(still, state.bad, jnp.where(good, 0, state.bad + 1)),
        )
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            # From the compiled step: computed by the host, it would wait behind the next one.
            "learning_rate": jnp.asarray(experiment.learning_rate(state.step), jnp.float32),
            "bad": after.bad,
        }
        return after, metrics

    return update


def _moved(moves: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(moves, new, old), new, old)


def _split_over(mesh: Mesh | None) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Returns what gathers split parameters, and what leaves each device its part of a gradient.

    Left to itself XLA gathers activations in some layers, and parameters once for each use.
    """
    if mesh is None or mesh.shape["fsdp"] == 1:
        return (lambda params: params), (lambda grads: grads)

    def gathered(params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, replicated(mesh))

    def scattered(grads: Any) -> Any:
        # First as the sum on every device, which XLA makes one reduce-scatter where it has that:
        # else it splits the products as well, and the activations that go into them.
        whole = jax.lax.with_sharding_constraint(grads, replicated(mesh))
        return jax.lax.with_sharding_constraint(whole, state_shardings(grads, mesh))

    return gathered, scattered


def gradient(
    experiment: Experiment, params: Any, drawn: DiffusionInputs, parts: int
) -> tuple[jax.Array, Any]:
    """Mean loss over the batch and its gradient, in `parts` one after the other."""

    def mean_loss(params: Any, drawn: DiffusionInputs) -> jax.Array:
        return jnp.mean(experiment.losses(params, drawn, train=True))

    if parts == 1:
        return jax.value_and_grad(mean_loss)(params, drawn)

    def add(total: Any, piece: tuple[DiffusionInputs, jax.Array]) -> tuple[Any, None]:
        part, key = piece
        value = jax.value_and_grad(mean_loss)(params, part._replace(dropout=key))
        return jax.tree.map(jnp.add, total, value), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, _split(drawn, parts))
    return jax.tree.map(lambda x: x / parts, total)


def losses(experiment: Experiment, params: Any, drawn: DiffusionInputs, parts: int) -> PerExample:
    """The losses `[B]` whose mean `gradient` takes, with the same dropout."""
    if parts == 1:
        return experiment.losses(params, drawn, train=True)

    def part(piece: tuple[DiffusionInputs, jax.Array]) -> PerExample:
        return experiment.losses(params, piece[0]._replace(dropout=piece[1]), train=True)

    return jnp.moveaxis(jax.lax.map(part, _split(drawn, parts)), 0, 1).reshape(-1)


def _split(drawn: DiffusionInputs, parts: int) -> tuple[DiffusionInputs, jax.Array]:
    """Stacks the parts of a batch on a leading axis, and a key of dropout for each."""

    def split(x: jax.Array) -> jax.Array:
        # Every parts-th example: each device keeps its own rows, and nothing crosses the mesh.
        return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

    return jax.tree.map(split, drawn._replace(dropout=None)), jax.random.split(drawn.dropout, parts)


def make_multi_step(experiment: Experiment, mesh: Mesh | None = None) -> TrainStep:
    """Returns a step over batches stacked on a leading axis; its metrics are stacked alike.

    What all of them draw is drawn first, at once: a generator's rounds cost the same for a hundred
    small draws as for one, and on a CPU they would be a tenth of a small network's step. So it is
    held for all steps of a dispatch, as floats.
    """
    update = make_update(experiment, mesh)

    def steps(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        numbers = state.step + jnp.arange(len(batches.examples))
        return jax.lax.scan(update, state, jax.vmap(experiment.draw)(batches, numbers))

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
            f"{mesh.size} devices; --train.batch_size {better} can"
        )


def state_layout(experiment: Experiment, mesh: Mesh | AbstractMesh) -> TrainState:
    """Returns the state as shapes with shardings: the network is traced, nothing computed."""
    return with_shardings(jax.eval_shape(lambda: init_state(experiment)), mesh)


def jit_init(experiment: Experiment, mesh: Mesh) -> Callable[[], TrainState]:
    """Compiles the initial state straight into its shards: no device ever holds it whole."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state_layout(experiment, mesh))
    return jax.jit(lambda: init_state(experiment), out_shardings=shardings)


def jit_train_step(experiment: Experiment, mesh: Mesh) -> Any:
    """Jits the step (or several a dispatch) over the mesh; the state it is given is consumed."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state_layout(experiment, mesh))
    several = experiment.config.train.steps_per_dispatch > 1
    make, leading = (make_multi_step, 1) if several else (make_train_step, 0)
    return jax.jit(
        make(experiment, mesh),
        in_shardings=(shardings, batch_sharding(mesh, leading=leading)),
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
