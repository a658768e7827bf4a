"""The compiled chain that the tests of this folder run."""

import dataclasses

import jax

from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from tests.tiny import TINY


def program(experiment, devices=1, *, times=None, **options):
    options = dataclasses.replace(TINY.sample, **options)
    mesh = make_mesh(devices=jax.devices()[:devices])
    return SampleProgram(experiment, mesh, options, times=times)
