import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from ddpm_jax.diffusion import SAMPLERS, make_schedule
from ddpm_jax.errors import UserError
from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram, Start
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.shards import sample_shards
from ddpm_jax.typing import Operator
from tests.sampling.programs import program


@pytest.fixture(scope="module")
def run(trained):
    mesh = make_mesh(devices=jax.devices()[:1])
    return Run(storage_path("runs/tiny"), 6, *trained, name="ema", mesh=mesh)


def test_a_run_says_what_it_is(run):
    assert repr(run) == "Run('runs/tiny', step 6, ema: mlp for 8×8×1)"


def test_a_run_samples_as_its_program_does_and_from_a_start(run, sixteen):
    drawn = run.sample(16, seed=3, batch_size=16)
    np.testing.assert_allclose(drawn.samples, sixteen.samples, atol=1e-5)
    again = run.sample(seed=3, start=Start(drawn.samples[:3], 4), batch_size=16)
    assert again.samples.shape == (3, 8, 8, 1)
    assert len(run._programs) == 1


def test_a_watched_run_shows_every_interval_and_draws_the_same(run):
    seen = []
    watched = run.watched(seen.append)
    options: dict[str, Any] = {"seed": 4, "batch_size": 4, "sampler": "ddim", "steps": 10}
    drawn = watched.sample(6, num_trajectories=2, **options)
    plain = run.sample(6, num_trajectories=2, **options)
    for found, right in zip(drawn[:4], plain[:4], strict=True):
        np.testing.assert_array_equal(found, right)
    assert [each.done for each in seen] == [*range(11), *range(10, 21)]  # Two batches.
    assert {each.total for each in seen} == {20}
    assert [each.t for each in seen[:11]] == run.times(sampler="ddim", steps=10).tolist()
    np.testing.assert_array_equal(np.concatenate([seen[10].x, seen[-1].x])[:6], drawn.samples)
    np.testing.assert_allclose(seen[-1].x_0, seen[-1].x, atol=1e-6)  # DDIM ends at its x̂_0.


def test_what_a_watch_raises_ends_the_draw(run):
    class Enough(Exception):
        pass

    def watch(seen):
        if seen.done == 2:
            raise Enough

    with pytest.raises(Enough):
        run.watched(watch).sample(4, seed=4, batch_size=4, sampler="ddim", steps=10)


def test_a_run_passes_on_all_that_it_is_asked_for(run, trained):
    told: list[list[Any]] = [[], []]
    options: dict[str, Any] = {"seed": 4, "first": 9, "labels": [(3 * i) % 10 for i in range(16)]}
    options["num_trajectories"] = 2
    drawn: Any = run.sample(
        16, batch_size=16, progress=lambda *pair: told[0].append(pair), **options
    )
    expected: Any = program(trained[0])(
        trained[1], 16, progress=lambda *pair: told[1].append(pair), **options
    )
    for found, right in zip(drawn[:4], expected[:4], strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5)
    assert drawn[4:] == expected[4:]
    assert told[0] == told[1]


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


def test_a_start_of_pixels_is_refused(run):
    with pytest.raises(UserError, match=r"start.x has the type uint8; give floats"):
        run.sample(seed=3, start=Start(np.zeros((3, 8, 8, 1), np.uint8), 4))


def test_noise_that_is_none_is_told_once_and_a_start_says_nothing(trained, monkeypatch):
    experiment = dataclasses.replace(trained[0], schedule=make_schedule("linear", 20))
    monkeypatch.setattr(SampleProgram, "__call__", lambda self, *args, **options: None)
    lines = []
    mesh = make_mesh(devices=jax.devices()[:1])
    told = Run(storage_path("x"), 6, experiment, None, name="ema", mesh=mesh, report=lines.append)
    told.sample(2, start=Start(np.zeros((2, 8, 8, 1), np.float32), 4))
    assert lines == []
    for seed in (0, 1):
        told.sample(2, seed=seed)
        told.sample(2, seed=seed, eta=0.5, sampler="ddim")
    (line,) = lines
    assert line.startswith("x_T is not noise")
    silent = Run(storage_path("x"), 6, experiment, None, name="ema", mesh=mesh)
    with pytest.warns(UserWarning, match="x_T is not noise") as warned:
        silent.sample(2)
    assert warned[0].filename == __file__


def test_times_that_start_below_T_in_noise_are_told(trained, monkeypatch):
    monkeypatch.setattr(SampleProgram, "__call__", lambda self, *args, **options: None)
    lines = []
    mesh = make_mesh(devices=jax.devices()[:1])
    run = Run(storage_path("x"), 6, *trained, name="ema", mesh=mesh, report=lines.append)
    run.sample(2, times=[20, 10, 0])
    assert lines == []
    run.sample(2, times=[10, 5, 0])
    (line,) = lines
    assert line.startswith("the times start at t = 10, where x_t is not noise")


def test_operators_with_other_data_share_one_program(run):
    def put(denoiser, value):
        return lambda x_t, t: denoiser(x_t, t)._replace(x_0=value + 0 * x_t)

    before = len(run._programs)
    for value in (0.25, 0.5):
        rows = np.full((3, 8, 8, 1), value, np.float32)
        drawn = run.sample(3, steps=2, transforms=[Operator(put, rows)])
        np.testing.assert_allclose(drawn.samples, value, rtol=1e-6)
    assert len(run._programs) == before + 1


def test_another_row_under_the_same_name_is_compiled_anew(run, monkeypatch):
    def stays_at(level):
        def step(denoiser, carry, row, keys):
            found = denoiser(carry.x, row.t)
            return carry._replace(x=0 * found.x_0 + level)

        return lambda schedule: SAMPLERS["ddim"](schedule)._replace(step=step)

    for level in (0.25, 0.5):
        monkeypatch.setitem(SAMPLERS, "mine", stays_at(level))
        np.testing.assert_array_equal(run.sample(2, sampler="mine", steps=1).samples, level)


def test_auto_is_one_program_with_the_rows_it_settles_on(run):
    few = run.options(sampler="auto", grid="auto", steps=4)
    named = {"sampler": few.sampler, "grid": few.grid, "steps": 4}
    found = run.sample(3, sampler="auto", grid="auto", steps=4).samples
    before = len(run._programs)
    np.testing.assert_array_equal(found, run.sample(3, **named).samples)
    assert len(run._programs) == before
    line = run.prepare(sampler="auto", grid="auto", steps=4)
    assert line.startswith(f"sampler {few.sampler.name} (order 2, ")
    assert line.endswith(f"4 of 20 steps on the grid {few.grid.name}, 4 network calls a sample")
    assert run.prepare(sampler="auto").startswith("sampler ddpm (variance posterior), 20 of 20")


def test_a_folder_of_samples_belongs_to_its_parameters(run, tmp_path):
    """Two runs may have the same settings and as many steps."""
    sample_shards(run, tmp_path, 3, steps=2, batch_size=2)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = Run(
        run.folder,
        run.step,
        run.experiment,
        jax.tree.map(lambda leaf: leaf + 1, run.params),
        name=run.name,
        mesh=run.mesh,
    )
    with pytest.raises(UserError, match="holds samples with digest = "):
        sample_shards(other, tmp_path, 3, steps=2, batch_size=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
