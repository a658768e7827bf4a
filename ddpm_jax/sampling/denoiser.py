"""From a network to a denoiser: parameterization, guidance, clipping, operators, in this order."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from ddpm_jax.config import SampleConfig
from ddpm_jax.diffusion import (
    classifier_guidance,
    constant_weight,
    interval_weight,
    make_clipping,
    make_guidance,
    predict,
)
from ddpm_jax.diffusion.conditioners import self_conditioned
from ddpm_jax.diffusion.guidance import GuidanceWeight
from ddpm_jax.diffusion.losses import class_log_probabilities
from ddpm_jax.experiment import Experiment
from ddpm_jax.sampling.guides import NO_GUIDES, Guides, negative_class
from ddpm_jax.typing import (
    Conditioning,
    Denoiser,
    DenoiserTransform,
    Examples,
    FractionalTimesteps,
    Operator,
    PerExample,
    Prediction,
    RecallingDenoiser,
    Timesteps,
)

# A Denoiser, or a RecallingDenoiser where the network or its guidance has a memory.
AnyDenoiser = Any


def make_denoiser(
    experiment: Experiment,
    params: Any,
    conditioning: Conditioning,
    options: SampleConfig,
    *,
    guides: Guides = NO_GUIDES,
    guide_params: Guides = NO_GUIDES,
    operators: Sequence[Operator] = (),
) -> AnyDenoiser:
    """Returns the denoiser of a network with the transforms that the options ask for.

    Transforms come in this order: guidance, clipping, and then the operators of editing, the first
    of them innermost. `guides` are the experiments that guide it, `guide_params` their parameters.
    A network that sees its own last x̂_0 sees what all of them made of it.
    """

    def told(image: Examples | None) -> AnyDenoiser:
        seen = conditioning._replace(image=image)
        return _transformed(experiment, params, seen, options, guides, guide_params, operators)

    if experiment.conditioner.recalls:
        return self_conditioned(told)
    return told(conditioning.image)


def _transformed(
    experiment: Experiment,
    params: Any,
    conditioning: Conditioning,
    options: SampleConfig,
    guides: Guides,
    guide_params: Guides,
    operators: Sequence[Operator],
) -> AnyDenoiser:
    schedule = experiment.schedule
    denoiser: AnyDenoiser = network_denoiser(experiment, params, conditioning)
    if is_guided(options):
        labels = conditioning.labels
        weak, weak_params = experiment, params
        if guides.weaker is not None:
            weak, weak_params = guides.weaker, guide_params.weaker
        if options.negative_label is not None and labels is not None:
            labels = jnp.full_like(labels, negative_class(experiment, options))
        elif guides.weaker is None:
            labels = experiment.condition(labels, dropped=True).labels
        away_from = network_denoiser(weak, weak_params, conditioning._replace(labels=labels))
        method = options.guidance_method
        guide = make_guidance(method.name, schedule, **method.options)
        denoiser = guide(denoiser, away_from, weight_of(experiment, options, options.guidance))
    if guides.classifier is not None:
        log_probability = _classify(guides.classifier, guide_params.classifier, conditioning)
        scale = weight_of(experiment, options, options.classifier_scale)
        denoiser = _with(denoiser, classifier_guidance(schedule, log_probability, scale))
    clipping = options.clipping
    denoiser = _with(denoiser, make_clipping(clipping.name, schedule, **clipping.options))
    for apply, data in operators:
        denoiser = _with(denoiser, lambda inner, apply=apply, data=data: apply(inner, data))
    return denoiser


def network_denoiser(experiment: Experiment, params: Any, conditioning: Conditioning) -> Denoiser:
    """Returns the denoiser of a network alone; it is given the labels if it takes any."""
    labels = experiment.condition(conditioning.labels).labels
    conditioning = conditioning._replace(labels=labels)

    def denoiser(x_t: Examples, t: Timesteps | FractionalTimesteps) -> Prediction:
        output = experiment.apply(params, x_t, t, conditioning, train=False)
        return predict(experiment.parameterization, experiment.schedule, output, x_t=x_t, t=t)

    return denoiser


def _classify(
    experiment: Experiment, params: Any, conditioning: Conditioning
) -> Callable[[Examples, Timesteps | FractionalTimesteps], PerExample]:
    """Returns a classifier's log p(y | x_t) of the label that each example shall have."""

    def log_probability(x_t: Examples, t: Timesteps | FractionalTimesteps) -> PerExample:
        assert conditioning.labels is not None
        output = experiment.apply(params, x_t, t, experiment.condition(), train=False)
        log_p = class_log_probabilities(output)
        return jnp.take_along_axis(log_p, conditioning.labels[:, None], axis=1)[:, 0]

    return log_probability


def weight_of(experiment: Experiment, options: SampleConfig, weight: float) -> GuidanceWeight:
    """Returns a weight of guidance over the times where the options let it act."""
    if options.guidance_interval is None:
        return constant_weight(weight)
    return interval_weight(experiment.schedule, weight, *options.guidance_interval)


def _with(denoiser: AnyDenoiser, transform: DenoiserTransform) -> AnyDenoiser:
    if isinstance(denoiser, RecallingDenoiser):
        given = denoiser.given
        return denoiser._replace(given=lambda memory: transform(given(memory)))
    return transform(denoiser)


def is_guided(options: SampleConfig) -> bool:
    """Whether a call of the denoiser calls two networks, where guidance acts."""
    return options.guidance > 0
