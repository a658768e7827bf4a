"""The one place where a config becomes network, schedule, optimizer and loss."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config import Config
from ddpm_jax.data.pixels import random_flip, to_unit
from ddpm_jax.diffusion import (
    PARAMETERIZATIONS,
    NoiseSchedule,
    Parameterization,
    make_objective,
    make_schedule,
    q_sample,
)
from ddpm_jax.models import MODELS
from ddpm_jax.optimizers import make_learning_rate, make_optimizer
from ddpm_jax.runtime.random import stream_key
from ddpm_jax.tables import Choice
from ddpm_jax.typing import (
    Batch,
    Conditioning,
    DiffusionInputs,
    Examples,
    Objective,
    PerExample,
    Timesteps,
)


@dataclass(frozen=True)
class Experiment:
    """A config made real: everything that training, sampling and evaluation share."""

    config: Config
    model: nn.Module
    schedule: NoiseSchedule
    parameterization: Parameterization
    objective: Objective
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
        conditioning = Conditioning(labels=labels)
        return self.model.init(key, x_t, t, conditioning, train=False)["params"]

    def apply(
        self, params: Any, x_t: Examples, t: Timesteps, conditioning: Conditioning, **options: Any
    ) -> Examples:
        """Calls the network; x_t is `[B, …]`, t is `[B]` or a scalar in 1…T."""
        return self.model.apply({"params": params}, x_t, t, conditioning, **options)  # type: ignore

    def draw(self, batch: Batch, step: int | jax.Array) -> DiffusionInputs:
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
        x_t = q_sample(self.schedule, x_0, t, eps)
        conditioning = Conditioning(labels=labels)
        return DiffusionInputs(x_0, x_t, eps, t, conditioning, dropout=key("dropout"))

    def losses(self, params: Any, drawn: DiffusionInputs, *, train: bool) -> PerExample:
        """Returns the objective's loss of each example, float32 `[B]`."""
        rngs = {"dropout": drawn.dropout} if train else None
        output = self.apply(params, drawn.x_t, drawn.t, drawn.conditioning, train=train, rngs=rngs)
        return self.objective(output, drawn)


def build(config: Config) -> Experiment:
    """Builds the experiment of a config; touches no data, no device and no file."""
    diffusion = config.diffusion
    parameterization = PARAMETERIZATIONS[diffusion.prediction]
    learning_rate = make_learning_rate(config.optimizer, config.train.steps)
    schedule = make_schedule(
        diffusion.schedule,
        diffusion.timesteps,
        beta_1=diffusion.beta_1,
        beta_T=diffusion.beta_T,
        s=diffusion.s,
    )
    weighting = {
        "none": Choice("none"),
        "min_snr": Choice("min_snr", gamma=diffusion.min_snr_gamma),
        "p2": Choice("p2", gamma=diffusion.p2_gamma, k=diffusion.p2_k),
    }[diffusion.weighting]
    return Experiment(
        config=config,
        model=_network(config),
        schedule=schedule,
        parameterization=parameterization,
        objective=make_objective(
            "simple", schedule, parameterization, loss=diffusion.loss, weighting=weighting
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
