"""The likelihood of real examples under a run's network, in bits per dimension."""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion import (
    choose_variance,
    decoder_of,
    make_clipping,
    q_sample,
    vlb_prior,
    vlb_term,
)
from ddpm_jax.evaluation.facts import RunFacts
from ddpm_jax.evaluation.metrics.measurement import Averages, Measure, Measured, Measurement
from ddpm_jax.typing import Conditioning, Denoiser, Examples, Keys, PerExample, is_image

_Variance = Annotated[
    str | None, "The variance of a step; if left out, the learned one, or else beta."
]
_Clip = Annotated[bool, "Keep the predicted x_0 of pictures within [-1, 1]."]


def bits_per_dim(*, variance: _Variance = None, clip: _Clip = True) -> Measurement:
    """The variational bound on the negative log-likelihood, with its terms; lower is better.

    The defaults are Ho et al.'s (2020, section 4.3): x̂_0 is clipped, each term of each example has
    one noise, β is the variance, and the decoder's is β̃ of t = 2. The arrays `vb`, `mse` and
    `x_0_mse` `[T]` are the term of each t in bits per dimension, and the mean squared errors of the
    predicted eps and x_0.
    """
    learned = variance is not None and choose_variance(variance) is None

    def obstacle(facts: RunFacts) -> str | None:
        if learned and not facts.learned_variance:
            return "the network predicts no variance; leave out --variance, or take beta"
        return "it needs at least two timesteps" if facts.schedule.T < 2 else None

    def measure(facts: RunFacts) -> Measure:
        of_step = variance or ("learned" if facts.learned_variance else "beta")

        def terms(
            network: Callable[[Conditioning], Denoiser],
            x_0: Examples,
            conditioning: Conditioning,
            keys: Keys,
        ) -> dict[str, jax.Array]:
            denoiser = network(conditioning)
            if clip and is_image(facts.shape):
                denoiser = make_clipping("clip", facts.schedule)(denoiser)

            def term(t: jax.Array) -> tuple[PerExample, PerExample, PerExample]:
                own = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
                eps = jax.vmap(lambda key: jax.random.normal(key, x_0.shape[1:]))(own)
                x_t = q_sample(facts.schedule, x_0, t, eps)
                found = denoiser(x_t, t)
                more = {"variance": of_step, "decoder": decoder_of(facts.shape)}
                vb = vlb_term(facts.schedule, found, x_0, x_t=x_t, t=t, **more)
                return vb, _mean_square(found.eps - eps), _mean_square(found.x_0 - x_0)

            found = jax.lax.map(term, jnp.arange(1, facts.schedule.T + 1))
            vb, mse, x_0_mse = (jnp.swapaxes(each, 0, 1) for each in found)
            prior = vlb_prior(facts.schedule, x_0)
            rate, distortion = prior + vb[:, 1:].sum(axis=1), vb[:, 0]
            parts = {"prior": prior, "rate": rate, "distortion": distortion}
            return {**parts, "bound": rate + distortion, "vb": vb, "mse": mse, "x_0_mse": x_0_mse}

        return terms

    def result(found: Averages) -> Measured:
        values = {
            "bits_per_dim": float(found.mean["bound"]),
            "bits_per_dim_error": float(found.error["bound"]),
            **{name: float(found.mean[name]) for name in ("rate", "distortion", "prior")},
        }
        arrays = {name: found.mean[name] for name in ("vb", "mse", "x_0_mse")}
        return Measured(values, {**arrays, "vb_error": found.error["vb"]})

    return Measurement(obstacle, measure, result, better={"bits_per_dim": "lower"})


def _mean_square(difference: Examples) -> PerExample:
    return (difference**2).mean(axis=tuple(range(1, difference.ndim)))
