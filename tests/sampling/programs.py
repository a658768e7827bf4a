"""The compiled chain that the tests of this folder run."""

import jax

from ddpm_jax.config import override
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from tests.tiny import TINY


def program(experiment, devices=1, *, times=None, operators=(), **options):
    settings = override(TINY.sample, options)
    mesh = make_mesh(devices=jax.devices()[:devices])
    return SampleProgram(experiment, mesh, settings, times=times, operators=operators)
