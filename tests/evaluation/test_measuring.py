"""Measurements of a run: by parts, on any mesh, and after a kill."""

import dataclasses

import jax
import numpy as np
import pytest

from ddpm_jax.config import Config, DiffusionConfig, DigitsData, MlpConfig, PointsData, SampleConfig
from ddpm_jax.data.source import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import measuring
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.metrics.flow import ode_bits_per_dim
from ddpm_jax.evaluation.metrics.measurement import Averages
from ddpm_jax.evaluation.sets import ExampleSet, set_of_data
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.run import Run
from ddpm_jax.tables import Choice

MOONS = PointsData(size=50, shape="moons")
CONFIG = Config(
    data=MOONS,
    model=MlpConfig(width=8, layers=1, num_classes=2),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=5, objective="hybrid"),
    sample=SampleConfig(clipping="none", batch_size=16),
)

THREE_CLASSES = ExampleSet(
    ArraySource(np.zeros((6, 2), np.float32), np.arange(6) % 3, ("0", "1", "2")), {}
)


@pytest.fixture
def opened(tmp_path):
    def make(config=CONFIG, devices=1):
        experiment, mesh = build(config), make_mesh(1, jax.devices()[:devices])
        params = jax.device_put(experiment.init_params(jax.random.key(0)), jax.devices()[0])
        leaves, shape = jax.tree.flatten(params)
        # The last layer begins at zero, which would hide the labels.
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noise = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        params = jax.tree.map(np.asarray, jax.tree.unflatten(shape, noise))
        return Run(tmp_path, 7, experiment, params, name="ema", mesh=mesh)

    return make


def test_neither_the_batches_nor_the_devices_matter(opened):
    run = opened()
    whole = evaluate(run, ["bits_per_dim"], settings={"batch_size": 50})
    assert whole.arrays["vb"].shape == (5,)
    for devices, size in ((1, 16), (4, 13)):
        other = evaluate(opened(devices=devices), ["bits_per_dim"], settings={"batch_size": size})
        assert other.values == pytest.approx(whole.values, rel=1e-5)
        np.testing.assert_allclose(other.arrays["vb"], whole.arrays["vb"], rtol=1e-5)
    assert list(run.folder.iterdir()) == []
    another = evaluate(run, ["bits_per_dim"], seed=1)
    assert another["bits_per_dim"] != whole["bits_per_dim"]
    assert whole["bits_per_dim_error"] > 0
    assert whole.described["metrics"] == {"bits_per_dim": {"variance": None, "clip": True}}


def test_a_killed_measurement_goes_on_with_the_parts_it_has(opened):
    class Killed(Exception):
        pass

    def killer(title):
        def progress(done, total):
            if done == 2:
                raise Killed

        return progress

    run, calls = opened(), []
    with pytest.raises(Killed):
        evaluate(run, ["bits_per_dim"], progress=killer)
    (folder,) = run.folder.iterdir()
    first = folder / "part-00000.npz"
    first.write_bytes(first.read_bytes()[:-20])
    found = evaluate(
        run, ["bits_per_dim"], progress=lambda title: lambda done, total: calls.append(total)
    )
    assert calls == [3, 3, 3]  # Of four parts one was whole.

    def spoiler(title):
        def progress(done, total):
            if done == total:
                next(iter(run.folder.glob("measurement-*/part-00000.npz"))).write_bytes(b"")

        return progress

    with pytest.raises(UserError, match=r"part-00000.npz can't be read; run the same command"):
        evaluate(run, ["bits_per_dim"], progress=spoiler)
    assert found.values == evaluate(run, ["bits_per_dim"]).values
    assert list(run.folder.iterdir()) == []


def test_labels_are_those_of_the_examples_in_the_runs_classes(opened):
    run = opened()
    given = evaluate(run, ["bits_per_dim"])
    dropping = dataclasses.replace(
        CONFIG, train=dataclasses.replace(CONFIG.train, label_dropout=0.1)
    )
    points = np.asarray(set_of_data(MOONS).source.gather(np.arange(50)).examples)
    unlabelled = ExampleSet(ArraySource(points), {})
    without = evaluate(opened(dropping), ["bits_per_dim"], reference=unlabelled)
    assert without["bits_per_dim"] != given["bits_per_dim"]
    with pytest.raises(UserError, match="the network takes labels, and the real examples have n"):
        evaluate(run, ["bits_per_dim"], reference=unlabelled)


def test_fixed_and_learned_variances_give_bounds_of_one_network(opened):
    run, found = opened(), {}
    for name in ("learned", "beta", "posterior"):
        found[name] = evaluate(run, [Choice("bits_per_dim", variance=name)])
    assert len({each["bits_per_dim"] for each in found.values()}) == 3
    errors = [each.arrays["mse"] for each in found.values()]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-6)
    assert evaluate(run, ["bits_per_dim"]).values == found["learned"].values


def test_what_is_not_measured_is_told_before_anything_is_written(opened):
    run = opened()
    for asked, match in (
        ({"metrics": ["ode_bits_per_dim"]}, "does not apply: the network has a table of whole"),
        ({"settings": {"steps": 3}}, "steps is of samples, and bits_per_dim draws none"),
        ({"features": "pixels"}, "features is of samples"),
        ({"num": 1}, "at least two real examples"),
        ({"settings": {"batch_size": -3}}, "batch_size is -3"),
        ({"settings": {"batch_size": 0}}, "batch_size is 0"),
        ({"reference": THREE_CLASSES}, "the real examples have 3 classes, and the network 2"),
        ({"reference": DigitsData()}, r"are \(8, 8, 1\), and the run's \(2,\)"),
        ({"metrics": [Choice("bits_per_dim", variance="bet")]}, "unknown variance 'bet'"),
    ):
        with pytest.raises(UserError, match=match):
            evaluate(run, **{"metrics": ["bits_per_dim"], **asked})
    stored = ExampleSet(set_of_data(MOONS).source, {})
    with pytest.raises(UserError, match="bits_per_dim needs a run, and real examples"):
        evaluate(stored, ["bits_per_dim"], reference=stored)
    classifier = dataclasses.replace(CONFIG, diffusion=DiffusionConfig(objective="classification"))
    with pytest.raises(UserError, match=r"is a classifier .*, which draws no samples"):
        evaluate(opened(classifier), ["bits_per_dim"], reference=MOONS)
    assert list(run.folder.iterdir()) == []


def test_averages_of_parts_are_those_of_the_whole():
    numbers = np.random.default_rng(0).normal(3.0, 2.0, (10, 4))

    def part(rows):
        mean = rows.mean(0)
        squares = ((rows - mean) ** 2).sum(0)
        return {"size": np.array(len(rows)), "mean x": mean, "square x": squares}

    found = measuring._joined([part(numbers[:3]), part(numbers[3:4]), part(numbers[4:])])
    np.testing.assert_allclose(found.mean["x"], numbers.mean(0))
    np.testing.assert_allclose(found.error["x"], numbers.std(0, ddof=1) / np.sqrt(10))


def test_an_ode_that_was_not_solved_is_no_likelihood():
    found = Averages({"bits": np.array(np.inf)}, {})
    with pytest.raises(UserError, match="the ODE was not solved in 4,096 steps for some examples"):
        ode_bits_per_dim().result(found)
