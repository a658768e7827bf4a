"""Moving averages of the parameters: which ones a run keeps, and how each is updated.

To add one, write a function whose keyword-only parameters are its options, and which returns the
decay as a function of the step. `train.averages` says which rows a run keeps, each under a name.

An average by a power function weighs the parameters after step τ by τ^γ (Karras et al. 2024,
"Analyzing and improving the training dynamics of diffusion models", section 3). Up to step t its
profile is

    p(τ) = (γ + 1) τ^γ / t^(γ + 1),  0 < τ ≤ t.                                             (1)

τ/t is then distributed as Beta(γ + 1, 1). Its standard deviation is the average's relative length

    σ_rel = √(γ + 1) / ((γ + 2) √(γ + 3)).                                                  (2)

An average of any length is nearly a combination of others, of other lengths or up to other steps.
The best one makes the integral of the squared difference of the profiles least. It only needs

    ∫ p_a p_b dτ = (γ_a + 1) (γ_b + 1) / (γ_a + γ_b + 1)
                   · (m / t_a)^(γ_a + 1) (m / t_b)^(γ_b + 1) / m,  m = min(t_a, t_b).       (3)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.tables import Choice

Decay = Callable[[jax.Array], Any]
"""The decay of the average after update number `step`, float32, counted from 1."""


def warmed_up(*, decay: float = 0.9999) -> Decay:
    """Returns min(decay, (1 + step) / (10 + step)).

    So the average follows the parameters closely at first, and forgets their initial values.
    Raises ValueError for a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}: it must be in [0, 1)")
    return lambda step: jnp.minimum(decay, (1.0 + step) / (10.0 + step))


LONGEST = 12**-0.5
"""σ_rel of the mean over all steps, γ = 0: a longer average would prefer the first steps."""


def exponent(sigma_rel: float) -> float:
    """Returns γ ≥ 0 of a relative length: the largest root of the cubic that (2) gives.

    Raises ValueError for a length outside (0, 0.2886].
    """
    if not 0 < sigma_rel <= LONGEST:
        raise ValueError(f"sigma_rel is {sigma_rel}: it must be above 0 and at most 0.2886")
    inverse = sigma_rel**-2.0
    return max(0.0, float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()))


def power(
    *, sigma_rel: Annotated[float, "Its length, as a share of all steps made."] = 0.1
) -> Decay:
    """Returns (1 - 1 / step)^(γ + 1), the average whose profile is (1).

    It is exact for parameters that are constant between steps; a step that is not finite is left
    out of it. Raises ValueError as `exponent` does.
    """
    order = exponent(sigma_rel) + 1
    # Through the logarithm: in float32, 1 - 1/step has few digits of 1/step.
    return lambda step: jnp.exp(order * jnp.log1p(-1.0 / step))


AVERAGES: dict[str, Callable[..., Decay]] = {"ema": warmed_up, "power": power}


def make_averages(choices: Mapping[str, Choice]) -> dict[str, Decay]:
    """Returns the decay of each average by its name; raises ValueError as the rows do."""
    return {name: AVERAGES[row.name](**row.options) for name, row in choices.items()}


def ema_init(averages: Mapping[str, Decay], params: Any) -> dict[str, Any]:
    """Returns a copy of the parameters for each average.

    The state is donated to each step, so two of its leaves must not share a buffer.
    """
    return {name: jax.tree.map(jnp.copy, params) for name in averages}


def ema_update(averages: Mapping[str, Decay], ema: Any, params: Any, step: jax.Array) -> Any:
    """Moves each average towards the parameters after update number `step` (counted from 1)."""
    step = step.astype(jnp.float32)

    def moved(decay: Any, average: Any) -> Any:
        return jax.tree.map(lambda old, new: new + decay * (old - new), average, params)

    return {name: moved(decay(step), ema[name]) for name, decay in averages.items()}


class Profile(NamedTuple):
    """The profile (1) of an average: its relative length, and the step up to which it goes."""

    sigma_rel: float
    step: int


def power_lengths(choices: Mapping[str, Choice]) -> dict[str, float]:
    """Returns σ_rel of each average by a power function, by its name."""
    return {name: row.options["sigma_rel"] for name, row in choices.items() if row.name == "power"}


def profile_products(first: Sequence[Profile], second: Sequence[Profile]) -> np.ndarray:
    """Returns the integrals (3) of all pairs, float64 `[len(first), len(second)]`."""
    orders = [np.array([exponent(each.sigma_rel) + 1 for each in some]) for some in (first, second)]
    ends = [np.array([float(each.step) for each in some]) for some in (first, second)]
    (a, b), (t_a, t_b) = np.ix_(*orders), np.ix_(*ends)
    least = np.minimum(t_a, t_b)
    return a * b / (a + b - 1) * (least / t_a) ** a * (least / t_b) ** b / least


def combine(known: Sequence[Profile], wanted: Sequence[Profile]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the combinations of known profiles that are nearest to the wanted ones.

    They are the coefficients float64 `[len(known), len(wanted)]`, whose sums are 1, and for each
    wanted profile the norm of what is missing as a share of its own (Karras et al. 2024, appendix
    C).
    """
    gram, right = profile_products(known, known), profile_products(known, wanted)
    squares = np.array([profile_products([each], [each])[0, 0] for each in wanted])
    # With profiles of norm 1 the system is as well-conditioned as it can be; what is still
    # dependent, as two nearly equal profiles, gets the solution of the least norm.
    norms = np.sqrt(np.diagonal(gram))[:, None]
    scale = np.sqrt(squares)
    gram, right, ones = gram / norms / norms.T, right / norms / scale, norms.min() / norms
    # A Lagrange multiplier keeps the sum of the coefficients at 1.
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])
    solved = np.linalg.lstsq(system, np.vstack([right, norms.min() / scale[None]]), rcond=None)[0]
    found = solved[:-1]
    missing = 1 - 2 * (right * found).sum(0) + (found * (gram @ found)).sum(0)
    return found * scale / norms, np.sqrt(np.maximum(missing, 0))
