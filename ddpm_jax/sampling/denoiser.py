"""From a network to a denoiser: parameterization, guidance, clipping, operators, in this order."""

from collections.abc import Sequence
from typing import Any

from ddpm_jax.config import SampleConfig
from ddpm_jax.diffusion import constant_weight, make_clipping, make_guidance, predict
from ddpm_jax.experiment import Experiment
from ddpm_jax.typing import Conditioning, Denoiser, Examples, Operator, Prediction, Timesteps


def make_denoiser(
    experiment: Experiment,
    params: Any,
    conditioning: Conditioning,
    options: SampleConfig,
    *,
    operators: Sequence[Operator] = (),
) -> Denoiser:
    """Returns the denoiser of a network with the transforms that the options ask for.

    Transforms come in this order: guidance, clipping, and then the operators of editing, the first
    of them innermost.
    """

    def network(conditioning: Conditioning) -> Denoiser:
        def denoiser(x_t: Examples, t: Timesteps) -> Prediction:
            output = experiment.apply(params, x_t, t, conditioning, train=False)
            return predict(experiment.parameterization, experiment.schedule, output, x_t=x_t, t=t)

        return denoiser

    denoiser = network(conditioning)
    if is_guided(options) and conditioning.labels is not None:
        no_class = experiment.condition(conditioning.labels, dropped=True).labels
        method, weight = options.guidance_method, constant_weight(options.guidance)
        guide = make_guidance(method.name, experiment.schedule, **method.options)
        denoiser = guide(denoiser, network(conditioning._replace(labels=no_class)), weight)
    clipping = options.clipping
    denoiser = make_clipping(clipping.name, experiment.schedule, **clipping.options)(denoiser)
    for apply, data in operators:
        denoiser = apply(denoiser, data)
    return denoiser


def is_guided(options: SampleConfig) -> bool:
    """Whether each call of the denoiser calls two networks."""
    return options.guidance > 0
