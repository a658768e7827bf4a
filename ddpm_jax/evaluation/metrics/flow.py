"""The exact likelihood of real examples under the probability-flow ODE of a run's network."""

import importlib.util
from collections.abc import Callable
from math import log, pi
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.flow import flow_velocity, log_snr_at
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.facts import RunFacts
from ddpm_jax.evaluation.metrics.measurement import Averages, Measure, Measured, Measurement
from ddpm_jax.typing import Conditioning, Denoiser, Examples, Keys, is_image

_Trace = Annotated[
    Literal["hutchinson", "exact"] | None,
    "How the divergence is computed; if left out, exactly for points and by one random probe for "
    "pictures.",
]
_Tolerance = Annotated[float, "Relative and absolute tolerance of a step, for each example."]
_Start = Annotated[float, "The time t in (0, 1] at which the data begin."]
_MOST_STEPS = 4_096
# Log SNR is -inf where no data is left. The ODE ends here, where the data are e^-15 of x.
_LEAST_LOG_SNR = -30.0


def ode_bits_per_dim(
    *, trace: _Trace = None, tolerance: _Tolerance = 1e-5, start: _Start = 0.01
) -> Measurement:
    """The negative log-likelihood under the probability-flow ODE; lower is better.

    Song et al. 2021, section 4.3: pixels are dequantized by uniform noise, the divergence has
    Skilling's and Hutchinson's probe of random signs, and an adaptive solver keeps the error. Each
    example has its own steps: `calls` is the mean number of calls of the network.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance!r}; it must be between 0 and 1")
    if not 0 < start <= 1:
        raise ValueError(f"start is {start!r}; it must be above 0 and at most 1")

    def obstacle(facts: RunFacts) -> str | None:
        if importlib.util.find_spec("diffrax") is None:
            return "it needs a solver: pip install 'ddpm_jax[likelihood]'"
        if not facts.fractional_times:
            return "the network has a table of whole times, and an ODE needs those between"
        return None

    def measure(facts: RunFacts) -> Measure:
        exact = trace == "exact" or (trace is None and not is_image(facts.shape))

        def likelihoods(
            network: Callable[[Conditioning], Denoiser],
            x_0: Examples,
            conditioning: Conditioning,
            keys: Keys,
        ) -> dict[str, jax.Array]:
            def one(x: jax.Array, conditioning: Any, key: jax.Array) -> dict[str, jax.Array]:
                alone = jax.tree.map(lambda each: each[None], conditioning)
                return _bits(facts, network(alone), x, key, exact, tolerance, start)

            # By itself each example has its own steps: in a batch they would share an error norm.
            return jax.vmap(one)(x_0, conditioning, keys)

        return likelihoods

    def result(found: Averages) -> Measured:
        if not jnp.isfinite(found.mean["bits"]):
            raise UserError(
                f"the ODE was not solved in {_MOST_STEPS:,} steps for some examples; take a larger "
                "--tolerance"
            )
        values = {
            "ode_bits_per_dim": float(found.mean["bits"]),
            "ode_bits_per_dim_error": float(found.error["bits"]),
            "ode_calls": float(found.mean["calls"]),
        }
        return Measured(values, {})

    return Measurement(obstacle, measure, result, better={"ode_bits_per_dim": "lower"})


def _bits(
    facts: RunFacts,
    denoiser: Denoiser,
    x: jax.Array,
    key: jax.Array,
    exact: bool,
    tolerance: float,
    start: float,
) -> dict[str, jax.Array]:
    """Returns the bits per dimension of one example `[*shape]`, and the solver's calls."""
    import diffrax

    of_pixels, of_probe = jax.random.split(key)
    offset = 0.0
    if is_image(facts.shape):
        # A pixel's bin is 2/255 wide. By Jensen, the mean of -log p over it is not too low.
        x = x + jax.random.uniform(of_pixels, x.shape, minval=-1.0, maxval=1.0) / 255
        offset = log(255 / 2)
    directions = jax.random.rademacher(of_probe, x.shape, jnp.float32)[None]
    if exact:
        directions = jnp.eye(x.size).reshape(x.size, *x.shape)

    def rates(u: Any, state: Any, args: Any) -> Any:
        # u = -λ rises from data to noise.
        def velocity(x: jax.Array) -> jax.Array:
            return -flow_velocity(facts.schedule, denoiser, x[None], -u)[0]

        moved, pull_back = jax.vjp(velocity, state[0])
        products = jax.vmap(lambda each: (pull_back(each)[0] * each).sum())(directions)
        return moved, products.sum()

    noise = max(log_snr_at(facts.schedule, facts.schedule.T), _LEAST_LOG_SNR)
    ends = (-log_snr_at(facts.schedule, start), -noise)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rates),
        diffrax.Dopri5(),
        *ends,
        None,
        (x, jnp.zeros(())),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=_MOST_STEPS,
        throw=False,
    )
    assert solution.ys is not None
    (last,), (change,) = solution.ys
    log_prior = -0.5 * (last**2 + log(2 * pi)).sum()
    nats = offset - (log_prior + change) / x.size
    solved = solution.result == diffrax.RESULTS.successful
    bits = jnp.where(solved, nats / log(2), jnp.nan)
    # The first of the seven evaluations of a step is the last one of the step before.
    return {"bits": bits, "calls": 1 + 6 * solution.stats["num_steps"].astype(jnp.float32)}
