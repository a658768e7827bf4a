"""Optimizers: a table of update directions, each after clipping and with a guard for bad steps.

To add one, write a function whose keyword-only parameters are its options, and which returns an
Optax transformation of the gradient into the direction to go against (`optax.scale_by_lion`, say,
or a chain of such). The learning rate is applied afterwards.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax.tables import choose, row_with

LearningRate = Callable[[int | np.ndarray], np.ndarray]
"""The learning rate of each step, float32. Computed on the host: no program contains it."""

# The factor of the peak at a share of the way, in [0, 1], from the warm-up to the last step.
DECAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": np.ones_like,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: 0.5 * (1 + np.cos(np.pi * share)),
}


def make_learning_rate(
    peak: float, steps: int, *, warmup: int = 0, decay: str = "constant"
) -> LearningRate:
    """Returns the learning rate of step 0 … steps-1: a linear warm-up, then a row of DECAYS.

    All rows but `constant` would reach 0 at step `steps`, one after the last. The rate is computed
    in float64 and rounded.
    """
    factor = choose("decay of the learning rate", DECAYS, decay)

    def rate(step: int | np.ndarray) -> np.ndarray:
        made = np.asarray(step, np.float64)
        # The first step already learns: its rate is peak / warmup, not zero.
        rise = (made + 1) / max(1, warmup)
        share = np.clip((made - warmup) / max(1, steps - warmup), 0, 1)
        return np.asarray(peak * np.where(made < warmup, rise, factor(share)), np.float32)

    return rate


def adam(
    *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """Adam (Kingma & Ba 2015, algorithm 1); ValueError for an option out of range."""
    _check_adam(beta1, beta2, eps)
    return _scale_by_adam(beta1, beta2, eps, weight_decay=0.0)


def adamw(
    *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2); Adam's state."""
    _check_adam(beta1, beta2, eps)
    if weight_decay < 0:
        raise ValueError(f"weight_decay is {weight_decay!r}; it must be 0 or more")
    return _scale_by_adam(beta1, beta2, eps, weight_decay=weight_decay)


def _check_adam(beta1: float, beta2: float, eps: float) -> None:
    for name, value in (("beta1", beta1), ("beta2", beta2)):
        if not (value >= 0 and np.float32(value) < 1):
            raise ValueError(f"{name} is {value!r}; it must be in [0, 1), also in float32")
    if eps <= 0:
        raise ValueError(f"eps is {eps!r}; it must be above 0")


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adam": adam, "adamw": adamw}


def make_optimizer(
    name: str, *, clip: float | None = None, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Returns a row of OPTIMIZERS after clipping by the gradient's global norm.

    Its `update` takes `learning_rate=`, that of the run's step, and `good=`, a boolean scalar.
    Where `good` is False the state stays as it is and the updates are meaningless. Raises
    ValueError for an unknown row or option.
    """
    row = row_with("optimizer", OPTIMIZERS, name, options)
    return optax.chain(
        optax.identity() if clip is None else _clip_by_global_norm(clip),
        _guarded(row(**options)),
        optax.identity(),  # Older checkpoints have an (empty) state here.
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), _scale_by_rate),
    )


def _guarded(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Keeps the state of any transformation, leaf by leaf, where a step is not `good`.

    A transformation whose `update` has a parameter `good` does that itself, so that it need not
    hold its old and new state at the same time.
    """
    if "good" in inspect.signature(inner.update).parameters:
        return optax.with_extra_args_support(inner)
    plain = optax.with_extra_args_support(inner)

    def update(
        updates: Any, state: Any, params: Any = None, *, good: Any = True, **extra: Any
    ) -> tuple[Any, Any]:
        updates, after = plain.update(updates, state, params, **extra)
        return updates, jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)

    return optax.GradientTransformationExtraArgs(plain.init, update)


def _clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales the gradient down to the norm `limit` where its norm is larger.

    It multiplies by one factor. Optax's own divides and selects for each parameter, which costs as
    much as Adam.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # If the gradient is zero, the quotient is infinite and the factor is 1.
        factor = jnp.minimum(1.0, limit / optax.tree.norm(updates))
        return jax.tree.map(lambda leaf: factor * leaf, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale_by_adam(
    beta1: float, beta2: float, eps: float, *, weight_decay: float
) -> optax.GradientTransformationExtraArgs:
    """Adam's quotient of moments; it guards its own state.

    A guard around Optax's Adam would hold old and new moments at once, so that XLA would copy the
    whole state at every step.
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, good: Any = True, **extra: Any
    ) -> tuple[Any, Any]:
        good = jnp.asarray(good)
        count = state.count + good.astype(state.count.dtype)

        def moment(old: Any, decay: float, power: int) -> Any:
            return jax.tree.map(
                lambda m, g: jnp.where(good, decay * m + (1 - decay) * g**power, m), old, updates
            )

        mu, nu = moment(state.mu, beta1, 1), moment(state.nu, beta2, 2)
        # Each bias is corrected by a factor: dividing every moment costs as much as all the rest.
        first, second = (1 / (1 - decay ** count.astype(jnp.float32)) for decay in (beta1, beta2))
        quotient = jax.tree.map(lambda m, v: (first * m) / (jnp.sqrt(second * v) + eps), mu, nu)
        if weight_decay:
            quotient = jax.tree.map(lambda q, p: q + weight_decay * p, quotient, params)
        return quotient, optax.ScaleByAdamState(count, mu, nu)

    init = optax.scale_by_adam(beta1, beta2, eps).init
    return optax.GradientTransformationExtraArgs(init, update)


def _scale_by_rate(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
    """Multiplies by minus the learning rate.

    Optax's own counts the updates that were made. A step without an update would then delay the
    whole schedule, and the rate that is logged would not be the one that was used.
    """
    rate = -jnp.asarray(extra["learning_rate"])
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(rate, leaf.dtype), updates), state
