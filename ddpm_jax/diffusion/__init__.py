"""The mathematics of denoising diffusion: jax and numpy only, no networks, no settings files.

Read `schedules`, then `gaussian`. The equations are numbered through all modules: gaussian (1)-(6),
parameterizations (7)-(10), guidance (11), losses (12)-(14) and (30), bound (15),
samplers (16)-(17), timestep_samplers (31).
"""

from ddpm_jax.diffusion.bound import (
    DECODERS,
    decoder_of,
    discretized_log_likelihood,
    gaussian_log_density,
    vlb_prior,
    vlb_term,
)
from ddpm_jax.diffusion.chain import advance, chain_calls, plan_chain, sample, sample_noise
from ddpm_jax.diffusion.clipping import CLIPPINGS, clip, make_clipping
from ddpm_jax.diffusion.gaussian import (
    VARIANCE_ALIASES,
    VARIANCES,
    choose_variance,
    forward_variance,
    gaussian_kl,
    log_variance,
    posterior_variance,
    q_conditional,
    q_mean_variance,
    q_posterior,
    q_sample,
    q_step,
    variance_fraction,
)
from ddpm_jax.diffusion.guidance import (
    GUIDANCE,
    classifier_free_guidance,
    constant_weight,
    make_guidance,
)
from ddpm_jax.diffusion.losses import (
    LOSSES,
    OBJECTIVES,
    WEIGHTINGS,
    make_objective,
    make_weighting,
)
from ddpm_jax.diffusion.parameterizations import (
    PARAMETERIZATIONS,
    Parameterization,
    output_channels,
    predict,
    split_output,
)
from ddpm_jax.diffusion.samplers import SAMPLERS, make_sampler
from ddpm_jax.diffusion.samplers.contract import Carry, Row, Sampler, SamplerState
from ddpm_jax.diffusion.schedules import (
    SCHEDULES,
    NoiseSchedule,
    at,
    continuous,
    make_schedule,
    noise_schedule,
    unfit_ends,
)
from ddpm_jax.diffusion.time_grids import TIME_GRIDS, make_time_grid, time_steps

__all__ = [
    "CLIPPINGS",
    "DECODERS",
    "GUIDANCE",
    "LOSSES",
    "OBJECTIVES",
    "PARAMETERIZATIONS",
    "SAMPLERS",
    "SCHEDULES",
    "TIME_GRIDS",
    "VARIANCES",
    "VARIANCE_ALIASES",
    "WEIGHTINGS",
    "Carry",
    "NoiseSchedule",
    "Parameterization",
    "Row",
    "Sampler",
    "SamplerState",
    "advance",
    "at",
    "chain_calls",
    "choose_variance",
    "classifier_free_guidance",
    "clip",
    "constant_weight",
    "continuous",
    "decoder_of",
    "discretized_log_likelihood",
    "forward_variance",
    "gaussian_kl",
    "gaussian_log_density",
    "log_variance",
    "make_clipping",
    "make_guidance",
    "make_objective",
    "make_sampler",
    "make_schedule",
    "make_time_grid",
    "make_weighting",
    "noise_schedule",
    "output_channels",
    "plan_chain",
    "posterior_variance",
    "predict",
    "q_conditional",
    "q_mean_variance",
    "q_posterior",
    "q_sample",
    "q_step",
    "sample",
    "sample_noise",
    "split_output",
    "time_steps",
    "unfit_ends",
    "variance_fraction",
    "vlb_prior",
    "vlb_term",
]
