"""Optimizers: the learning rate over the steps, clipping, and the update of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.config import OptimizerConfig


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
