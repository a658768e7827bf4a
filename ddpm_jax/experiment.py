"""The one place where a config becomes network, schedule, optimizer and loss."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config import Config, OptimizerConfig
from ddpm_jax.data.pixels import random_flip, to_unit
from ddpm_jax.diffusion import (
    LOSSES,
    PARAMETERIZATIONS,
    NoiseSchedule,
    Parameterization,
    at,
    make_schedule,
    make_weighting,
    q_sample,
)
from ddpm_jax.models import MODELS
from ddpm_jax.streams import stream_key
from ddpm_jax.typing import Batch, Examples, Labels, PerExample, Timesteps


class Draw(NamedTuple):
    """What one training step feeds the network: data, and all that is random about it."""

    x_0: Examples
    eps: Examples
    t: Timesteps
    labels: Labels | None
    dropout: Any


@dataclass(frozen=True)
class Experiment:
    """A config made real: everything that training, sampling and evaluation share."""

    config: Config
    model: nn.Module
    schedule: NoiseSchedule
    parameterization: Parameterization
    weighting: Callable[[PerExample], PerExample]
    learning_rate: optax.Schedule
    optimizer: optax.GradientTransformationExtraArgs
    """Its update is told the `step`, which the learning rate follows, and if that is `good`."""

    @property
    def num_classes(self) -> int:
        return self.config.model.num_classes

    def init_params(self, key: jax.Array) -> Any:
        """Draws fresh parameters; float32, whatever the network computes in."""
        x_t = jnp.zeros((1, *self.config.data.example_shape))
        labels = jnp.zeros((1,), jnp.int32) if self.num_classes else None
        t = jnp.ones((1,), jnp.int32)
        return self.model.init(key, x_t, t, labels, train=False)["params"]

    def apply(
        self, params: Any, x_t: Examples, t: Timesteps, labels: Labels | None, **options: Any
    ) -> Examples:
        """Calls the network; x_t `[B, …]`, t `[B]` or scalar in 1…T, labels `[B]` or None."""
        return self.model.apply({"params": params}, x_t, t, labels, **options)  # type: ignore

    def draw(self, batch: Batch, step: int | jax.Array) -> Draw:
        """Draws noise, timesteps, flips and dropped labels of a step, for the global batch.

        They depend on (seed, step) and the place in the global batch alone, so that neither the
        number of devices nor a restart changes them.
        """
        config = self.config

        def key(stream: str) -> jax.Array:
            return stream_key(config.seed, stream, step)

        x_0 = to_unit(jnp.asarray(batch.examples))
        if config.data.flip:
            x_0 = random_flip(key("flip"), x_0)
        count = x_0.shape[0]
        t = jax.random.randint(key("timestep"), (count,), 1, config.diffusion.timesteps + 1)
        eps = jax.random.normal(key("noise"), x_0.shape)
        labels = None
        if self.num_classes:
            labels = jnp.asarray(batch.labels)
        if labels is not None and config.train.label_dropout > 0:
            dropped = jax.random.bernoulli(key("labels"), config.train.label_dropout, (count,))
            labels = jnp.where(dropped, self.num_classes, labels)
        return Draw(x_0, eps, t, labels, key("dropout"))

    def losses(self, params: Any, drawn: Draw, *, train: bool) -> PerExample:
        """Returns the weighted loss of each example, float32 `[B]` (Ho et al. 2020, eq. 14)."""
        config = self.config.diffusion
        x_0, eps, t = drawn.x_0, drawn.eps, drawn.t
        x_t = q_sample(self.schedule, x_0, t, eps)
        rngs = {"dropout": drawn.dropout} if train else None
        output = self.apply(params, x_t, t, drawn.labels, train=train, rngs=rngs)
        target = self.parameterization.target(self.schedule, x_0, eps, t)
        log_snr = at(self.schedule.log_snr, t, ndim=1)
        return self.weighting(log_snr) * LOSSES[config.loss](output, target)


def build(config: Config) -> Experiment:
    """Builds the experiment of a config; touches no data, no device and no file."""
    diffusion = config.diffusion
    parameterization = PARAMETERIZATIONS[diffusion.prediction]
    learning_rate = make_learning_rate(config.optimizer, config.train.steps)
    return Experiment(
        config=config,
        model=_network(config),
        schedule=make_schedule(
            diffusion.schedule,
            diffusion.timesteps,
            beta_1=diffusion.beta_1,
            beta_T=diffusion.beta_T,
            s=diffusion.s,
        ),
        parameterization=parameterization,
        weighting=make_weighting(
            diffusion.weighting,
            parameterization,
            min_snr_gamma=diffusion.min_snr_gamma,
            p2_gamma=diffusion.p2_gamma,
            p2_k=diffusion.p2_k,
        ),
        learning_rate=learning_rate,
        optimizer=make_optimizer(config.optimizer, learning_rate),
    )


def _network(config: Config) -> nn.Module:
    model = config.model
    settings = {item.name: getattr(model, item.name) for item in dataclasses.fields(model)}
    network = MODELS[model.kind]
    # T is said once, in the diffusion's settings: a network with a table of times is told it.
    if "timesteps" in (item.name for item in dataclasses.fields(network)):
        settings["timesteps"] = config.diffusion.timesteps
    return network(**settings)


def make_learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, then constant, or falling to 0 at the last step along a line or a cosine."""
    peak, rest = config.learning_rate, max(1, steps - config.warmup)
    courses = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
    }
    course = courses[config.decay]()
    if config.warmup == 0:
        return course
    # The first step already learns: rate 1/warmup of the peak, not zero.
    rise = optax.linear_schedule(peak / config.warmup, peak, max(1, config.warmup - 1))
    return optax.join_schedules([rise, course], [config.warmup])


def make_optimizer(
    config: OptimizerConfig, learning_rate: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Adam or AdamW behind clipping by the gradient's global norm.

    `update` takes `step=`, and `good=`: where that is False the state stays as it is, and the
    updates mean nothing. Every setting gives a state of one form, so that each of them can be
    changed on resume.
    """
    clip, decay = config.clip, config.weight_decay
    return optax.chain(
        optax.identity() if clip is None else _clip_by_global_norm(clip),
        _scale_by_adam(config.beta1, config.beta2, config.eps),
        optax.add_decayed_weights(decay) if config.name == "adamw" else optax.identity(),
        _scale_by_course(learning_rate),
    )


def _clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """Scales the gradient down to the norm `most` where it is longer.

    By one factor: Optax's divides and selects at each parameter, which costs as much as Adam does.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # Without a gradient the quotient is infinite, and the factor 1.
        factor = jnp.minimum(1.0, most / optax.tree.norm(updates))
        return jax.tree.map(lambda leaf: factor * leaf, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """Adam's quotient of moments (Kingma & Ba 2015, algorithm 1); a bad step can't move its state.

    Optax's computes the update from moments that a guard around it would then throw away, so that
    old and new ones live side by side: XLA copied the whole state, at every step.
    """

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        good = jnp.asarray(extra.get("good", True))
        count = state.count + good.astype(state.count.dtype)

        def moment(old: Any, decay: float, power: int) -> Any:
            return jax.tree.map(
                lambda m, g: jnp.where(good, decay * m + (1 - decay) * g**power, m), old, updates
            )

        mu, nu = moment(state.mu, b1, 1), moment(state.nu, b2, 2)
        # The moments' bias is corrected by a factor each: divisions cost as much as all the rest.
        first, second = (1 / (1 - decay ** count.astype(jnp.float32)) for decay in (b1, b2))
        quotient = jax.tree.map(lambda m, v: (first * m) / (jnp.sqrt(second * v) + eps), mu, nu)
        return quotient, optax.ScaleByAdamState(count, mu, nu)

    init = optax.scale_by_adam(b1, b2, eps).init
    return optax.GradientTransformationExtraArgs(init, update)


def _scale_by_course(learning_rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Goes down by the learning rate of the run's own step.

    Optax counts the updates that were made; a step whose update was left out would hold the whole
    course back by one, and the rate that is logged would not be the one that was used.
    """

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        rate = -jnp.asarray(learning_rate(extra["step"]))
        return jax.tree.map(lambda leaf: leaf * jnp.asarray(rate, leaf.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
