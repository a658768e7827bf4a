"""The mathematics of denoising diffusion: jax and numpy only, no networks, no settings files.

Read `schedules`, then `gaussian`; the equations are numbered through all modules.
"""

from ddpm_jax.diffusion.gaussian import (
    VARIANCES,
    gaussian_kl,
    q_conditional,
    q_mean_variance,
    q_posterior,
    q_sample,
    q_step,
)
from ddpm_jax.diffusion.losses import (
    LOSSES,
    WEIGHTINGS,
    discretized_log_likelihood,
    make_weighting,
    vlb_prior,
    vlb_term,
)
from ddpm_jax.diffusion.parameterizations import (
    PARAMETERIZATIONS,
    Parameterization,
    classifier_free_guidance,
    clip,
)
from ddpm_jax.diffusion.samplers import (
    SAMPLERS,
    Carry,
    Sampler,
    advance,
    make_sampler,
    sample,
    sample_noise,
    time_steps,
)
from ddpm_jax.diffusion.schedules import (
    SCHEDULES,
    NoiseSchedule,
    at,
    make_schedule,
    noise_schedule,
)

__all__ = [
    "LOSSES",
    "PARAMETERIZATIONS",
    "SAMPLERS",
    "SCHEDULES",
    "VARIANCES",
    "WEIGHTINGS",
    "Carry",
    "NoiseSchedule",
    "Parameterization",
    "Sampler",
    "advance",
    "at",
    "classifier_free_guidance",
    "clip",
    "discretized_log_likelihood",
    "gaussian_kl",
    "make_sampler",
    "make_schedule",
    "make_weighting",
    "noise_schedule",
    "q_conditional",
    "q_mean_variance",
    "q_posterior",
    "q_sample",
    "q_step",
    "sample",
    "sample_noise",
    "time_steps",
    "vlb_prior",
    "vlb_term",
]
