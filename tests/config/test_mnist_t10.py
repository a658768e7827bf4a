"""MNIST in ten steps: the numbers of the French class notebook, and the configs after it."""

import jax
import numpy as np
import pytest

from ddpm_jax.config import Config, differences, load_file
from ddpm_jax.diffusion import SCHEDULES
from ddpm_jax.experiment import build

NAMES = ("mnist_t10", "mnist_t10_conditional")


@pytest.fixture(scope="module")
def configs() -> dict[str, Config]:
    return {name: load_file(f"configs/{name}.py") for name in NAMES}


def betas(config: Config) -> np.ndarray:
    schedule = config.diffusion.schedule
    return SCHEDULES[schedule.name](config.diffusion.timesteps, **schedule.options)


@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_is_the_notebooks_table(configs, name):
    table = "0.1 0.17777778 0.25555556 0.33333333 0.41111111"
    table += " 0.48888889 0.56666667 0.64444444 0.72222222 0.8"
    expected = np.array([float(word) for word in table.split()])
    np.testing.assert_allclose(betas(configs[name]), expected, atol=5e-9)
    schedule = build(configs[name]).schedule
    assert schedule.T == 10
    np.testing.assert_allclose(schedule.beta, [0, *expected], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_time_is_nearly_noise_as_published(configs, name):
    mean, variance = 0.03076020665577701, 0.9990538096864939
    alpha_bar_T = np.prod(1 - betas(configs[name]))
    assert abs(np.sqrt(alpha_bar_T) - mean) < 1e-12
    assert abs(1 - alpha_bar_T - variance) < 1e-12
    schedule = build(configs[name]).schedule
    np.testing.assert_allclose(schedule.sqrt_alpha_bar[-1], mean, rtol=1e-12)
    np.testing.assert_allclose(schedule.sqrt_one_minus_alpha_bar[-1] ** 2, variance, rtol=1e-12)


def test_the_training_is_the_notebooks(configs):
    config = configs["mnist_t10"]
    assert config.diffusion.prediction.name == "eps"
    assert config.diffusion.loss.name == "l2"
    optimizer = config.optimizer
    assert (optimizer.method.name, optimizer.learning_rate, optimizer.clip) == ("adam", 1e-3, None)
    assert (optimizer.warmup, optimizer.decay) == (0, "constant")
    assert config.train.steps * config.train.batch_size == 20 * 60_000
    assert config.data.example_shape == (28, 28, 1)


@pytest.mark.parametrize(("name", "count"), list(zip(NAMES, [458_561, 462_081], strict=True)))
def test_parameter_counts(configs, name, count):
    experiment = build(configs[name])
    params = jax.eval_shape(experiment.init_params, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_the_exercise_changes_what_labels_need_and_no_more(configs):
    changed = differences(*(configs[name] for name in NAMES))
    assert changed == {
        "model.num_classes": (0, 10),
        "train.label_dropout": (0.0, 0.1),
        "sample.guidance": (0.0, 2.0),
    }
