"""What training minimizes: objectives, and the losses and weightings that they are made of.

An objective takes the network's output and the inputs of the step, and gives one number for each
example. It also says which variance it trains, and so how many outputs the network has. A row of
`OBJECTIVES` makes one.

The simple objective is the error of what the network predicts, times a weight that depends on t.
Papers state a weighting for the squared error of one quantity. Here each is written for eps, and
equation (10) of `parameterizations` carries it over to the others, so that its optimum and the
share of each t in the gradient do not depend on what the network predicts:

(12)  none      1 for the network's own output: L_simple of Ho et al. 2020 (equation 14) for eps
(13)  min_snr   min(SNR_t, γ) ‖δx_0‖² = min(1, γ/SNR_t) ‖δeps‖²       Hang et al. 2023, section 3.4
(14)  p2        ‖δeps‖² / (k + SNR_t)^γ                               Choi et al. 2022, equation 8

The bound objective is T L_{t-1} of equation (15) in `bound`, in bits per dimension: its mean over
uniform t is the variational bound but for L_T, which has no parameters. The hybrid one adds a
little of it to the simple objective, so that the network learns its variance too:

(30)  hybrid    L_simple + λ T L_{t-1}, the latter's mean detached    Nichol & Dhariwal 2021, (16)
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddpm_jax.diffusion.bound import decoder_of, vlb_term
from ddpm_jax.diffusion.checks import check_examples
from ddpm_jax.diffusion.gaussian import choose_variance, per_example_mean
from ddpm_jax.diffusion.parameterizations import Parameterization, predict, split_output
from ddpm_jax.diffusion.schedules import NoiseSchedule, at
from ddpm_jax.tables import Choice, choose, row_with
from ddpm_jax.typing import DiffusionInputs, Examples, Objective, PerExample


def _difference(output: Examples, target: Examples) -> Examples:
    check_examples(output=output, target=target)
    # Widen half-precision outputs before the subtraction, not after it.
    return output.astype(jnp.float32) - target.astype(jnp.float32)


def l1(output: Examples, target: Examples) -> PerExample:
    """Returns the mean absolute error."""
    return per_example_mean(jnp.abs(_difference(output, target)))


def l2(output: Examples, target: Examples) -> PerExample:
    """Returns the mean squared error."""
    return per_example_mean(_difference(output, target) ** 2)


def huber(output: Examples, target: Examples) -> PerExample:
    """Returns the mean of ½d² for |d| < 1 and |d| - ½ beyond: smooth l1."""
    d = jnp.abs(_difference(output, target))
    return per_example_mean(jnp.where(d < 1, 0.5 * d**2, d - 0.5))


LOSSES: dict[str, Callable[[Examples, Examples], PerExample]] = {"l1": l1, "l2": l2, "huber": huber}


# A weighting is (log SNR_t, the parameterization's eps_loss_factor there) -> weight, both `[B]`.
def unweighted(log_snr: PerExample, eps_loss_factor: PerExample) -> PerExample:
    """Returns 1: equation (12)."""
    return jnp.ones_like(log_snr)


def min_snr(log_snr: PerExample, eps_loss_factor: PerExample, *, gamma: float = 5.0) -> PerExample:
    """Returns min(1, γ/SNR) for eps, min(SNR, γ) for x_0, min(SNR, γ)/(SNR + 1) for v: (13)."""
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma!r}; it must be above 0")
    return eps_loss_factor * jnp.minimum(1.0, gamma * jnp.exp(-log_snr))


def p2(
    log_snr: PerExample, eps_loss_factor: PerExample, *, gamma: float = 1.0, k: float = 1.0
) -> PerExample:
    """Returns 1/(k + SNR)^γ for eps, times equation (10) for the others: equation (14)."""
    if gamma < 0:
        raise ValueError(f"gamma is {gamma!r}; it must be 0 or more")
    if k <= 0:
        raise ValueError(f"k is {k!r}; it must be above 0")
    return eps_loss_factor * (k + jnp.exp(log_snr)) ** -gamma


WEIGHTINGS: dict[str, Callable[..., PerExample]] = {
    "none": unweighted,
    "min_snr": min_snr,
    "p2": p2,
}


def make_weighting(name: str, parameterization: Parameterization, **options: Any) -> "Weighting":
    """Returns the function from log SNR `[B]`, at t ≥ 1, to the weight of the output's loss `[B]`.

    `name` is a row of `WEIGHTINGS`; ValueError for an unknown name or option. The conversion
    between parameterizations holds for squared errors; l1 and huber get the same weight.
    """
    row = row_with("weighting", WEIGHTINGS, name, options)
    return lambda log_snr: row(log_snr, parameterization.eps_loss_factor(log_snr), **options)


Weighting = Callable[[PerExample], PerExample]
"""From log SNR `[B]` to the weight of each example's loss `[B]`."""


def simple(
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    error: Callable[[Examples, Examples], PerExample],
    weight: Weighting,
) -> Objective:
    """Returns the weighted error of the network's output: Ho et al. 2020, equation 14.

    A learned variance would get no gradient, so the objective refuses it with ValueError.
    """

    def loss(output: Examples, inputs: DiffusionInputs) -> PerExample:
        output, fraction = split_output(output, inputs.x_0.shape[-1])
        if fraction is not None:
            raise ValueError("objective 'simple' does not train a learned variance; take another")
        target = parameterization.target(schedule, inputs.x_0, inputs.eps, inputs.t)
        return weight(at(schedule.log_snr, inputs.t, ndim=1)) * error(output, target)

    return Objective(loss)


def class_log_probabilities(output: Examples) -> Float[Array, "B classes"]:
    """Returns log p(y | x_t) from outputs `[B, …, classes]`, which are averaged over the pixels."""
    logits = output.astype(jnp.float32).mean(axis=tuple(range(1, output.ndim - 1)))
    return jax.nn.log_softmax(logits)


def classification(
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    error: Callable[[Examples, Examples], PerExample],
    weight: Weighting,
) -> Objective:
    """Returns the weighted cross-entropy of the class of x_t, in nats.

    A network that learns it can guide others: Dhariwal & Nichol 2021, section 4. The error and the
    parameterization have no meaning for it. The loss raises ValueError without labels.
    """

    def loss(output: Examples, inputs: DiffusionInputs) -> PerExample:
        if inputs.labels is None:
            raise ValueError("objective 'classification' needs labels; set model.num_classes")
        log_p = class_log_probabilities(output)
        of_label = jnp.take_along_axis(log_p, inputs.labels[:, None], axis=1)[:, 0]
        return -weight(at(schedule.log_snr, inputs.t, ndim=1)) * of_label

    return Objective(loss, classifies=True)


def bound(
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    *,
    variance: Annotated[str, "The variance of a step: learned, beta or posterior."] = "learned",
) -> Objective:
    """Returns the variational bound: T L_{t-1} of equation (15), in bits per dimension.

    `variance` is a row of `VARIANCES`; raises ValueError for an unknown one, and for T = 1.
    """
    _check_steps("bound", schedule)
    learned = choose_variance(variance) is None

    def loss(output: Examples, inputs: DiffusionInputs) -> PerExample:
        at_t: dict[str, Any] = {"x_t": inputs.x_t, "t": inputs.t}
        prediction = predict(parameterization, schedule, output, **at_t)
        more: dict[str, Any] = {"variance": variance, "decoder": decoder_of(inputs.x_0.shape[1:])}
        return schedule.T * vlb_term(schedule, prediction, inputs.x_0, **at_t, **more)

    return Objective(loss, variance="learned" if learned else None)


def hybrid(
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    error: Callable[[Examples, Examples], PerExample],
    weight: Weighting,
    *,
    bound_weight: Annotated[float, "λ: weight of the bound in bits per dimension."] = 0.001,
) -> Objective:
    """Returns the simple objective plus a learned variance's share of the bound: equation (30).

    Raises ValueError unless λ is above 0, and for T = 1.
    """
    if not bound_weight > 0:
        raise ValueError(f"bound_weight is {bound_weight!r}; it must be above 0")
    _check_steps("hybrid", schedule)
    of_mean = simple(schedule, parameterization, error, weight)
    of_variance = bound(schedule, parameterization)

    def loss(output: Examples, inputs: DiffusionInputs) -> PerExample:
        channels = inputs.x_0.shape[-1]
        mean = output[..., :channels]
        detached = jnp.concatenate([jax.lax.stop_gradient(mean), output[..., channels:]], axis=-1)
        return of_mean(mean, inputs) + bound_weight * of_variance(detached, inputs)

    return Objective(loss, variance="learned")


def _check_steps(objective: str, schedule: NoiseSchedule) -> None:
    if schedule.T < 2:
        raise ValueError(f"{objective} needs at least two timesteps; this schedule has T = 1")


# A row gets the schedule and the parameterization, and if it has such a term, the error (a row of
# LOSSES) and the weighting; its keyword-only parameters are its options.
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "simple": simple,
    "hybrid": hybrid,
    "bound": bound,
    "classification": classification,
}

_UNWEIGHTED = Choice("none")


def make_objective(
    name: str,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    *,
    loss: str = "l2",
    weighting: Choice = _UNWEIGHTED,
    **options: Any,
) -> Objective:
    """Returns a row of `OBJECTIVES`, of a row of `LOSSES` and one of `WEIGHTINGS`.

    Raises ValueError for an unknown name or option, and for a loss or a weighting that the row
    would not use.
    """
    row = row_with("objective", OBJECTIVES, name, options)
    error = choose("loss", LOSSES, loss)
    weight = make_weighting(weighting.name, parameterization, **weighting.options)
    if "error" in inspect.signature(row).parameters:
        return row(schedule, parameterization, error, weight, **options)
    for setting, value, need in (("loss", loss, "l2"), ("weighting", weighting.name, "none")):
        if value != need:
            raise ValueError(f"{setting} is {value!r}; it must be {need}: {name} has its own error")
    return row(schedule, parameterization, **options)
