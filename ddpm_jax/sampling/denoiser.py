"""From a network to a denoiser: parameterization, guidance, clipping, in this order."""

from typing import Any

import jax.numpy as jnp

from ddpm_jax.config import SampleConfig
from ddpm_jax.diffusion import constant_weight, make_clipping, make_guidance, predict
from ddpm_jax.experiment import Experiment
from ddpm_jax.typing import Conditioning, Denoiser, Examples, Prediction, Timesteps


def make_denoiser(
    experiment: Experiment, params: Any, conditioning: Conditioning, options: SampleConfig
) -> Denoiser:
    """Returns the denoiser of a network with the transforms that the options ask for.

    Labels are int32 `[B]` in 0…num_classes, where num_classes means "no class"; None for a network
    without labels. Transforms come in this order: guidance, clipping, operators.
    """

    def network(conditioning: Conditioning) -> Denoiser:
        def denoiser(x_t: Examples, t: Timesteps) -> Prediction:
            output = experiment.apply(params, x_t, t, conditioning, train=False)
            return predict(experiment.parameterization, experiment.schedule, output, x_t=x_t, t=t)

        return denoiser

    denoiser = network(conditioning)
    if is_guided(options) and conditioning.labels is not None:
        no_class = jnp.full_like(conditioning.labels, experiment.num_classes)
        method, weight = options.guidance_method, constant_weight(options.guidance)
        guide = make_guidance(method.name, weight, **method.options)
        denoiser = guide(denoiser, network(conditioning._replace(labels=no_class)))
    clipping = options.clipping
    return make_clipping(clipping.name, experiment.schedule, **clipping.options)(denoiser)


def is_guided(options: SampleConfig) -> bool:
    """Whether each call of the denoiser calls two networks."""
    return options.guidance > 0
