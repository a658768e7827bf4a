"""Every file in configs/, at its full size: traced, never compiled, so that none can rot unseen."""

import ast
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax import config as configs
from ddpm_jax.config import Config
from ddpm_jax.data import resolve
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.training.state import init_state
from ddpm_jax.training.step import batch_layout, make_multi_step, make_train_step, step_inputs

FILES = {path.stem: path for path in sorted(Path("configs").glob("*.py"))}
every_config = pytest.mark.parametrize("name", FILES)

# Sizes of networks that are known from the paper's code or from a config's source.
_CONVNEXT = {"model.block": "convnext", "model.dim": 32, "model.multipliers": (1, 2, 4, 8)}
KNOWN = [
    ("celebahq256", {}, 113_673_219),
    ("cifar10", {}, 35_746_307),
    ("fashion_mnist", {}, 2_996_315),
    ("flowers102", {}, 32_009_619),
    ("flowers102", _CONVNEXT, 14_733_783),
    ("single_image", {}, 395_763),
    ("swiss_roll", {}, 72_066),
    ("swiss_roll_noise", {}, 72_066),
]


@pytest.fixture(scope="module", autouse=True)
def references():
    """Plain operations: they are traced three times faster, and tests/ops compares them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_JAX_OPS", "reference")
        yield


@cache
def experiment(name: str) -> Experiment:
    return build(resolve(configs.load_file(FILES[name])))


@cache
def state(name: str) -> Any:
    return jax.eval_shape(lambda: init_state(experiment(name), 0))


@pytest.mark.parametrize(("name", "settings", "count"), KNOWN)
def test_it_has_the_known_number_of_parameters(name, settings, count):
    if not settings:
        params = state(name).params
    else:
        other = build(configs.override(experiment(name).config, settings))
        params = jax.eval_shape(other.init_params, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


# What the sources of the configs set; test_mnist_t10.py has those of mnist_t10.
SOURCE_SETTINGS = {
    "swiss_roll": {
        "diffusion": {"schedule": "sigmoid", "timesteps": 100}
        | {"schedule.beta_1": 1e-4, "schedule.beta_T": 0.02}
        | {"prediction": "eps", "loss": "l2", "weighting": "none"},
        "optimizer": {"method": "adam", "learning_rate": 1e-3, "clip": 1.0},
        "train": {"steps": 78_000, "batch_size": 128},
        "data": {"shape": "swiss_roll", "size": 10_000},
    },
    "fashion_mnist": {
        "diffusion": {"schedule": "linear", "timesteps": 200}
        | {"schedule.beta_1": 1e-4, "schedule.beta_T": 0.02}
        | {"prediction": "eps", "loss": "huber", "weighting": "none"},
        "optimizer": {"method": "adam", "learning_rate": 1e-3, "clip": None},
        "train": {
            "steps": 5 * 469,
            "batch_size": 128,
            "averages.ema.decay": 0.0,
            "preview_every": 1_000,
        },
        "data": {"name": "fashion_mnist", "image_size": [28, 28], "flip": True},
        "sample": {"sampler": "ddpm", "clipping": "none", "num": 64},
    },
    "flowers102": {
        "diffusion": {"schedule": "linear", "timesteps": 1_000}
        | {"schedule.beta_1": 1e-4, "schedule.beta_T": 0.02}
        | {"prediction": "eps", "loss": "l1", "weighting": "none"},
        "optimizer": {"method": "adam", "learning_rate": 1e-3, "clip": None},
        "train": {"steps": 1_000 * 43, "batch_size": 192, "averages.ema.decay": 0.0},
        "data": {"name": "oxford_flowers102", "image_size": [128, 128], "flip": False},
        "sample": {"sampler": "ddpm", "clipping": "none"},
    },
    "single_image": {
        "diffusion": {"schedule": "linear", "timesteps": 100}
        | {"schedule.beta_1": 1e-3, "schedule.beta_T": 0.2}
        | {"prediction": "v", "loss": "l2", "weighting": "none"},
        "optimizer": {"method": "adam", "learning_rate": 1e-4, "clip": None},
        "train": {"batch_size": 2},
        "sample": {"sampler": "ddpm-beta"},
    },
}


@pytest.mark.parametrize("name", SOURCE_SETTINGS)
def test_it_has_the_settings_of_its_source(name):
    found = configs.flatten(configs.load_file(FILES[name]))
    expected = {
        f"{part}.{each}": value
        for part, settings in SOURCE_SETTINGS[name].items()
        for each, value in settings.items()
    }
    assert {each: found[each] for each in expected} == expected


@every_config
def test_its_train_step_is_traced(name):
    run, mesh = experiment(name), make_mesh(1)
    each = run.config.train.steps_per_dispatch
    step = make_multi_step(run) if each > 1 else make_train_step(run)
    inputs = step_inputs(run, 0)
    after, metrics = jax.eval_shape(step, state(name), batch_layout(run, mesh), inputs)
    assert jax.tree.map(shape, after) == jax.tree.map(shape, state(name))
    assert {leaf.shape for leaf in metrics.values()} == {(each,) if each > 1 else ()}


@every_config
def test_its_sample_step_is_traced(name):
    run, mesh = experiment(name), make_mesh(1)
    program = SampleProgram(run, mesh, run.config.sample)
    if run.classifies:
        with pytest.raises(UserError, match=r"this run is a classifier .* draws no samples"):
            program(None, 1, seed=0)
        return
    rows = min(run.config.sample.num, run.config.sample.batch_size)
    indices = jax.ShapeDtypeStruct((rows,), jnp.uint32)
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32) if run.num_classes else None
    x_0 = jax.ShapeDtypeStruct((rows, *run.config.data.example_shape), jnp.float32)
    beside = jax.eval_shape(run.beside, x_0, jax.random.key(0))
    conditioning: Any = beside._replace(labels=labels)
    carry = jax.eval_shape(program._first_carry, seed, indices, None)
    row = jax.tree.map(lambda leaf: leaf[:1], program.rows)
    some_steps = program._some_steps
    after = jax.eval_shape(
        some_steps, state(name).ema["ema"], carry, row, seed, indices, conditioning, ()
    )
    assert jax.tree.map(shape, after) == jax.tree.map(shape, carry)
    assert after.x.shape == (rows, *run.config.data.example_shape)
    assert after.x.dtype == jnp.float32


def shape(leaf: Any) -> tuple[tuple[int, ...], Any]:
    return leaf.shape, leaf.dtype


@every_config
def test_its_json_gives_it_back(name):
    for config in (configs.load_file(FILES[name]), experiment(name).config):
        assert configs.loads(configs.dumps(config)) == config


@every_config
def test_its_smoke_is_the_same_run_made_small(name):
    config, smoke = (configs.load_file(FILES[name], smoke=smoke) for smoke in (False, True))
    assert 2 <= smoke.train.steps <= 100
    assert kinds(smoke) == kinds(config)
    # A preview or a checkpoint that is due only after the end would not be seen to work.
    assert smoke.train.save_every <= smoke.train.steps
    assert smoke.train.log_every <= smoke.train.steps


def kinds(config: Config) -> tuple[str, str]:
    return config.data.kind, config.model.kind


@every_config
def test_it_says_in_one_line_what_it_is(name):
    said = ast.get_docstring(ast.parse(FILES[name].read_text())) or ""
    assert said.splitlines()[0].endswith((".", ":"))
