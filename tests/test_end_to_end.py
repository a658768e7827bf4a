"""The commands as people type them, in processes of their own that are killed at will."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageSequence

import ddpm_jax
from ddpm_jax import cli
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.reports.figures import FIGURES, suffix_of
from ddpm_jax.training.logging.run_logger import read_rows
from ddpm_jax.training.step import state_layout
from tests.tiny import StepLoop, assert_same

pytestmark = pytest.mark.usefixtures("one_device")

# Two averages and snapshots: a figure needs them, and kills must not change them either.
CONFIG = """
from ddpm_jax.config import *

def get_config():
    return Config(
        data=DigitsData(),
        model={model},
        diffusion=DiffusionConfig(schedule="cosine", timesteps=20),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=50, decay="cosine"),
        train=TrainConfig(
            averages={{
                "ema": Choice("ema", decay=0.995),
                "short": "power --sigma_rel 0.05",
                "long": "power --sigma_rel 0.1",
            }},
            snapshot_every=4, steps=20, batch_size=16, steps_per_dispatch=2,
            label_dropout=0.1, log_every=2, save_every=4, preview_every=8,
        ),
        sample=SampleConfig(num=20),
    )
"""
# The commands are the same for every network; the long form has the one that people train.
PERCEPTRON = "MlpConfig(width=16, layers=2, num_classes=10)"
UNET = "UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(8,), num_classes=10)"


def command(*words, devices=1, quick=True):
    env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(devices))
    if not quick:  # The optimized programs that people run: --long.
        env.pop("XLA_FLAGS", None)
    return {"args": [sys.executable, "-m", "ddpm_jax.cli", *map(str, words)], "env": env}


def ddpm(*words, code=0, **options):
    done = subprocess.run(**command(*words, **options), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def here(capsys):
    """Runs a command in this process, which costs no start, and returns what it printed."""

    def run(*words):
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


@pytest.fixture(scope="module")
def config(tmp_path_factory, quick):
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(CONFIG.format(model=PERCEPTRON if quick else UNET))
    return path


def states(run, step):
    """The whole state that a run saved at a step."""
    checkpoints = Checkpoints(run)
    assert checkpoints.newest_good(step) == step
    config = checkpoints.config(step)
    trainer = StepLoop(config)
    return checkpoints.restore(step, state_layout(trainer.experiment, trainer.mesh))


@pytest.fixture(scope="module")
def quick(request):
    return not request.config.getoption("--long")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, config, quick):
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    ddpm("train", config, "--workdir", run, quick=quick)
    return run


def test_a_run_leaves_what_people_want_to_see(unbroken):
    present = {item.name for item in unbroken.iterdir()}
    assert present >= {
        "config.json",
        "checkpoints",
        "metrics.jsonl",
        "tensorboard",
        "samples",
        "samples.png",
        "denoising.gif",
        "loss.png",
    }
    assert [item.name for item in (unbroken / "samples").iterdir()] == [
        "00000008.png",
        "00000016.png",
    ]
    with Image.open(unbroken / "denoising.gif") as animation:
        assert len(list(ImageSequence.Iterator(animation))) == 21
    rows = read_rows(unbroken / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(2, 21, 2))
    assert set(rows[0]) == {
        "step",
        "loss",
        "grad_norm",
        "learning_rate",
        "images_per_s",
        "data_wait",
        "nonfinite_steps",
    }
    assert Checkpoints(unbroken).steps() == [12, 16, 20]


def reached(run, step):
    return any(saved >= step for saved in Checkpoints(run).steps())


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_twice_and_run_again_it_ends_bit_for_bit_the_same(unbroken, config, tmp_path, quick):
    if quick:
        pytest.skip("--long: the short form is in test_faults.py")
    run = tmp_path / "broken"
    words = ("train", config, "--workdir", run)
    for step in (4, 12):
        process = subprocess.Popen(
            **command(*words, quick=quick),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        wait_for(partial(reached, run, step), process)
        process.kill()
        process.communicate()
    assert max(Checkpoints(run).steps()) < 20
    done = ddpm(*words, quick=quick)
    assert "going on from step" in done.stderr
    assert_same(states(run, 20), states(unbroken, 20))
    kept, expected = (read_rows(it / "metrics.jsonl") for it in (run, unbroken))
    assert [(row["step"], row["loss"]) for row in kept] == [
        (row["step"], row["loss"]) for row in expected
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_before_it_ends(tmp_path, number, code):
    run = tmp_path / "stopped"
    words = ("train", "configs/swiss_roll.py", "--workdir", run, "--train.steps", 10**6)
    small = ("--model.width", 16, "--train.batch_size", 16, "--train.log_every", 100)
    process = subprocess.Popen(
        **command(*words, "--train.save_every", 10**6, *small),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_for(lambda: len(read_rows(run / "metrics.jsonl")) > 1, process)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    (step,) = Checkpoints(run).steps()
    assert f"stopped at step {step}; run the same command again to go on" in said


def test_run_again_when_done_it_says_so_and_writes_nothing(unbroken, config, quick):
    def tree():
        files = (item for item in sorted(unbroken.rglob("*")) if item.is_file())
        return {item: (item.read_bytes(), item.stat().st_mtime_ns) for item in files}

    before = tree()
    done = ddpm("train", config, "--workdir", unbroken, quick=quick)
    assert "is finished, with all its 20 steps; to go on, raise train.steps" in done.stderr
    assert tree() == before


def test_a_run_of_eight_devices_is_sampled_on_one(tmp_path, config, here, quick):
    if quick:
        pytest.skip("--long: tests of the step and of the chain have each half of it")
    run, settings = tmp_path / "eight", ("--mesh.fsdp", 4, "--train.preview_every", None)
    ddpm("train", config, "--workdir", run, "--train.steps", 4, *settings, devices=8)
    # The run's own last pictures are those of its seed, drawn on eight.
    here("sample", run, "--seed", 0, "--output", tmp_path / "one.png")
    one, eight = (
        np.asarray(Image.open(path), int) for path in (tmp_path / "one.png", run / "samples.png")
    )
    assert one.std() > 10
    assert np.abs(one - eight).max() <= 1


def test_ten_are_the_first_of_a_hundred(unbroken, tmp_path, here):
    here("sample", unbroken, "--num", 10, "--output", tmp_path / "ten.npz")
    more = ("--num", 100, "--batch-size", 33, "--output", tmp_path / "hundred.npz")
    here("sample", unbroken, *more)
    ten, hundred = (np.load(tmp_path / f"{name}.npz") for name in ("ten", "hundred"))
    np.testing.assert_allclose(ten["samples"], hundred["samples"][:10], atol=1e-4)
    np.testing.assert_array_equal(ten["labels"], np.arange(10))


def test_a_run_is_loaded_and_sampled_from_python(unbroken):
    run = ddpm_jax.load(unbroken)
    assert run.step == 20
    drawn = run.sample(num=16, seed=0, labels=[3] * 16)
    assert drawn.samples.shape == (16, 8, 8, 1)
    assert len(run.sample(labels=[1, 2]).samples) == 2
    raw = ddpm_jax.load(unbroken, params="raw", checkpoint=12).sample(num=2)
    assert np.abs(raw.samples - run.sample(num=2).samples).max() > 1e-4


def test_info_says_what_a_config_amounts_to(here):
    words = ("--model.channels", 8, "--model.multipliers", 1, "--model.attention", 8)
    told = json.loads(here("info", "configs/digits.py", "--json", *words))
    assert told["examples"] == 1797
    assert told["parameters"] > 1000
    assert told["flops_per_sample_forward"] > 2 * told["parameters"]
    assert told["train_step_bytes_per_device"] > 16 * told["parameters"]


def test_evaluate_judges_every_class(unbroken, here):
    values = json.loads(here("evaluate", unbroken, "--json", "--metrics", "accuracy"))
    by_class = {f"accuracy/{label}" for label in range(10)}
    assert values["values"].keys() == {"accuracy", *by_class}
    assert 0 <= values["values"]["accuracy"] <= 1


# By itself it trains a classifier, and draws as many samples as its metric wants.
CHEAP = {"ema_length": ("--num", 16, "--lengths", 0.05, 0.1, "--features", "pixels")}


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_drawn(unbroken, tmp_path, figure, here):
    path = tmp_path / (f"it{suffix_of(figure)}")
    here("plot", unbroken, figure, *CHEAP.get(figure, ()), "--output", path)
    with Image.open(path) as picture:
        assert min(picture.size) > 50
