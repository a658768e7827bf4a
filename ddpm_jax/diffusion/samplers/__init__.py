"""Samplers, a file for each family: `contract` says what one is, `SAMPLERS` lists them."""

from collections.abc import Callable
from typing import Any

from ddpm_jax.diffusion.samplers.ancestral import ddpm, ddpm_beta
from ddpm_jax.diffusion.samplers.contract import Sampler
from ddpm_jax.diffusion.samplers.ddim import ddim
from ddpm_jax.diffusion.samplers.heun import heun
from ddpm_jax.diffusion.samplers.multistep import deis, dpmpp, dpmpp_sde, ipndm, unipc
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.tables import row_with

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddpm": ddpm,
    "ddpm-beta": ddpm_beta,
    "ddim": ddim,
    "heun": heun,
    "dpmpp": dpmpp,
    "dpmpp-sde": dpmpp_sde,
    "unipc": unipc,
    "deis": deis,
    "ipndm": ipndm,
}


def suited_sampler(steps: int, T: int) -> tuple[str, dict[str, float]]:
    """Returns the row of `SAMPLERS`, and its options, for `steps` steps where the schedule has T.

    All steps are ancestral. Fewer are a multistep method's with fresh noise, which mends what
    earlier steps got wrong; below 10 steps there is less of it, since each step adds an error of
    its own. tests/benchmarks/RESULTS.md has the measurements.
    """
    if steps >= T:
        return "ddpm", {}
    return "dpmpp-sde", {} if steps >= 10 else {"eta": 0.5}


def make_sampler(name: str, schedule: NoiseSchedule, **options: Any) -> Sampler:
    """Returns a row of `SAMPLERS`; ValueError for an unknown name or option."""
    row = row_with("sampler", SAMPLERS, name, options)
    return row(schedule, **options)
