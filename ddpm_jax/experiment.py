"""The one place where a config becomes network, schedule, optimizer and loss."""

import functools
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
    output_channels,
    predict,
    q_sample,
)
from ddpm_jax.diffusion.conditioners import NOTHING, Conditioner, as_shown, make_conditioner
from ddpm_jax.diffusion.timestep_samplers import TimestepSampler, make_timestep_sampler
from ddpm_jax.models import make_network
from ddpm_jax.models.conditioning import NO_CONDITIONING
from ddpm_jax.ops import REFERENCE, from_environment
from ddpm_jax.optimizers import LearningRate, make_learning_rate, make_optimizer
from ddpm_jax.runtime.random import stream_key
from ddpm_jax.runtime.switches import pinned
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
    """What a config describes, built: all that training, sampling and evaluation share."""

    config: Config
    model: nn.Module
    schedule: NoiseSchedule
    parameterization: Parameterization
    objective: Objective
    learning_rate: LearningRate
    optimizer: optax.GradientTransformationExtraArgs
    """Its update takes the `learning_rate`, and whether the step is `good` (finite)."""
    timestep_sampler: TimestepSampler
    conditioner: Conditioner = NOTHING
    class_names: tuple[str, ...] = ()
    """The name of each label; empty if the data has no labels, or where nobody recorded them."""

    @property
    def num_classes(self) -> int:
        return self.config.model.num_classes

    @property
    def classifies(self) -> bool:
        """Whether the network says which class x_t is of, and draws no samples."""
        return self.objective.classifies

    @pinned()
    def init_params(self, key: jax.Array) -> Any:
        """Draws fresh parameters; float32, whatever the network computes in."""
        x_t = jnp.zeros((1, *self.config.data.example_shape))
        t = jnp.ones((1,), jnp.int32)
        beside = self.beside(x_t, key)
        conditioning = self.condition(jnp.zeros((1,), jnp.int32), beside=beside)
        # The parameters are the same in every form; references are traced three times faster.
        plain = self.model.clone(ops=REFERENCE)
        return plain.init(key, x_t, t, conditioning, train=False)["params"]

    @functools.cached_property
    def param_shapes(self) -> Any:
        """The parameters as shapes. The network is traced for it once."""
        return jax.eval_shape(self.init_params, jax.random.key(0))

    def beside(self, x_0: Examples, key: jax.Array) -> Conditioning:
        """Returns what the network sees of x_0 `[B, …]` besides x_t, as training draws it."""
        return self.conditioner.draw(self.schedule, x_0, key)

    @property
    def is_shown(self) -> bool:
        """Whether the network must be shown something beside x_t that its chain does not have."""
        return bool(self.conditioner.takes) and not self.conditioner.recalls

    def given_shapes(self, num: int) -> Conditioning:
        """Returns what a chain of `num` samples is given, as shapes."""
        beside = NO_CONDITIONING
        if self.is_shown:
            x_0 = jax.ShapeDtypeStruct((num, *self.config.data.example_shape), jnp.float32)
            beside = jax.eval_shape(self.beside, x_0, jax.random.key(0))
        return self.condition(jax.ShapeDtypeStruct((num,), jnp.int32), beside=beside)

    def condition(
        self,
        labels: Any = None,
        *,
        beside: Conditioning = NO_CONDITIONING,
        dropped: jax.Array | bool = False,
    ) -> Conditioning:
        """Returns what the network is given beside x_t and t.

        `beside` has the parts besides labels. Labels are left out if the network takes none, or
        shall find them. Those that are `dropped`, a boolean or one for each label `[B]`, become "no
        class".
        """
        if not self.num_classes or self.classifies:
            labels = None
        elif labels is not None and dropped is not False:
            labels = jnp.where(dropped, self.num_classes, labels)
        return beside._replace(labels=labels)

    def used(self, batch: Batch) -> Batch:
        """Returns the batch without its labels, if neither network nor objective uses any."""
        return batch if self.num_classes else batch._replace(labels=None)

    @pinned()
    def apply(
        self, params: Any, x_t: Examples, t: Timesteps, conditioning: Conditioning, **options: Any
    ) -> Examples:
        """Calls the network; x_t is `[B, …]`, t is `[B]` or a scalar in 1…T."""
        return self.model.apply({"params": params}, x_t, t, conditioning, **options)  # type: ignore

    @pinned()
    @jax.named_scope("draw")
    def draw(
        self,
        batch: Batch,
        step: int | jax.Array,
        timesteps: Any = None,
        *,
        seed: int | jax.Array | None = None,
    ) -> DiffusionInputs:
        """Draws noise, timesteps, flips and dropped labels of a step, for the global batch.

        They depend only on (seed, step), on the position in the global batch and on `timesteps`,
        the timestep sampler's state. So neither the number of devices nor a restart changes them.
        `seed` is the config's if it is None; a program takes it as an argument, to serve all seeds.
        """
        config = self.config

        def key(stream: str) -> jax.Array:
            return stream_key(config.seed if seed is None else seed, stream, step)

        x_0 = to_unit(jnp.asarray(batch.examples))
        if getattr(config.data, "flip", False):  # points have no such setting
            x_0 = random_flip(key("flip"), x_0)
        count = x_0.shape[0]
        t, weight = self.timestep_sampler.draw(timesteps, key("timestep"), count)
        eps = jax.random.normal(key("noise"), x_0.shape)
        dropped = False
        if config.train.label_dropout > 0:
            dropped = jax.random.bernoulli(key("labels"), config.train.label_dropout, (count,))
        x_t = q_sample(self.schedule, x_0, t, eps)
        beside = self.beside(x_0, key("condition"))
        conditioning = self.condition(batch.labels, beside=beside, dropped=dropped)
        return DiffusionInputs(
            x_0, x_t, eps, t, conditioning, key("dropout"), labels=batch.labels, weight=weight
        )

    @pinned()
    def losses(self, params: Any, drawn: DiffusionInputs, *, train: bool) -> PerExample:
        """Returns the objective's loss of each example, float32 `[B]`."""
        rngs = {"dropout": drawn.dropout} if train else None
        seen = self._recalled(params, drawn) if self.conditioner.recalls else drawn.conditioning
        output = self.apply(params, drawn.x_t, drawn.t, seen, train=train, rngs=rngs)
        return self.objective(output, drawn)

    def _recalled(self, params: Any, drawn: DiffusionInputs) -> Conditioning:
        """Returns the conditioning whose image is x̂_0 of a first call where drawn, else zeros."""
        shown, params = drawn.conditioning.image, jax.lax.stop_gradient(params)
        assert shown is not None
        blank = drawn.conditioning._replace(image=jnp.zeros_like(shown))

        def estimate() -> Examples:
            output = self.apply(params, drawn.x_t, drawn.t, blank, train=False)
            found = predict(self.parameterization, self.schedule, output, x_t=drawn.x_t, t=drawn.t)
            return shown * as_shown(found.x_0)

        image = jax.lax.cond(jnp.any(shown > 0), estimate, lambda: jnp.zeros_like(shown))
        return blank._replace(image=image)


def learning_rate_of(config: Config) -> LearningRate:
    """Returns the learning rate of a config as a function of the run's step."""
    optimizer = config.optimizer
    return make_learning_rate(
        optimizer.learning_rate,
        config.train.steps,
        warmup=optimizer.warmup,
        decay=optimizer.decay,
    )


def build(config: Config, *, devices: int = 1) -> Experiment:
    """Builds the experiment of a config; touches no data, no device and no file.

    `devices` is the size of the mesh that its programs will run on. Reads DDPM_JAX_OPS and raises
    UserError if it is neither auto nor reference.
    """
    diffusion = config.diffusion
    optimizer, timestep_sampler = config.optimizer, config.train.timestep_sampler
    parameterization = PARAMETERIZATIONS[diffusion.prediction.name]
    schedule = diffusion.noise_schedule
    learning_rate = learning_rate_of(config)
    objective, condition = diffusion.trained_objective, diffusion.condition
    conditioner = make_conditioner(condition.name, config.data.example_shape, **condition.options)
    return Experiment(
        config=config,
        model=make_network(
            config.model,
            out_channels=config.model.num_classes
            if objective.classifies
            else output_channels(config.data.example_shape[-1], objective.variance),
            timesteps=diffusion.timesteps,
            takes=conditioner.takes,
            ops=from_environment(devices=devices),
        ),
        schedule=schedule,
        parameterization=parameterization,
        objective=objective,
        learning_rate=learning_rate,
        optimizer=make_optimizer(
            optimizer.method.name, clip=optimizer.clip, **optimizer.method.options
        ),
        timestep_sampler=make_timestep_sampler(
            timestep_sampler.name, diffusion.timesteps, **timestep_sampler.options
        ),
        conditioner=conditioner,
    )
