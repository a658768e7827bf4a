import numpy as np
import pytest

from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import Start
from ddpm_jax.sampling.run import Run
from ddpm_jax.typing import Operator


@pytest.fixture(scope="module")
def run(trained):
    import jax

    mesh = make_mesh(devices=jax.devices()[:1])
    return Run(storage_path("runs/tiny"), 6, *trained, name="ema", mesh=mesh)


def test_a_run_says_what_it_is(run):
    assert repr(run) == "Run('runs/tiny', step 6, ema: unet for 8×8×1)"


def test_a_run_samples_as_its_program_does_and_from_a_start(run, sixteen):
    drawn = run.sample(16, seed=3, batch_size=16)
    np.testing.assert_allclose(drawn.samples, sixteen.samples, atol=1e-5)
    again = run.sample(seed=3, start=Start(drawn.samples[:3], 4), batch_size=16)
    assert again.samples.shape == (3, 8, 8, 1)
    assert len(run._programs) == 1


def test_a_run_takes_times_and_transforms_and_compiles_them_once(run):
    def zero(denoiser):
        return lambda x_t, t: denoiser(x_t, t)._replace(x_0=0 * x_t)

    before = len(run._programs)
    drawn, _ = (
        run.sample(2, times=[20, 10, 15, 0], transforms=[zero], num_trajectories=1)
        for _ in range(2)
    )
    np.testing.assert_array_equal(drawn.times, [20, 10, 15, 0])
    np.testing.assert_array_equal(drawn.samples, 0)
    assert len(run._programs) == before + 1


def test_operators_with_other_data_share_one_program(run):
    def put(denoiser, value):
        return lambda x_t, t: denoiser(x_t, t)._replace(x_0=value + 0 * x_t)

    before = len(run._programs)
    for value in (0.25, 0.5):
        rows = np.full((3, 8, 8, 1), value, np.float32)
        drawn = run.sample(3, steps=2, transforms=[Operator(put, rows)])
        np.testing.assert_allclose(drawn.samples, value, rtol=1e-6)
    assert len(run._programs) == before + 1
