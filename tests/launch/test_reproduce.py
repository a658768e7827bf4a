"""launch/reproduce_cifar10.sh: three commands in turn, which go on after a kill."""

import json
import signal

import pytest


@pytest.fixture
def script(launch):
    return launch / "reproduce_cifar10.sh"


@pytest.fixture
def folder(tmp_path):
    """A run of three steps, none of them made."""
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.json").write_text(json.dumps({"train": {"steps": 3}}))
    return tmp_path / "run"


def finish(folder):
    (folder / "checkpoints/3").mkdir()
    (folder / "checkpoints/3/checksums.json").touch()


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "the weights"
    path.touch()
    return path


def test_it_trains_draws_and_evaluates(world, script, folder, weights):
    finish(folder)
    settings = ["--model.dtype", "bfloat16", "--distributed.process_id", "1"]
    world.run(script, "--weights", weights, "--workdir", folder, *settings)
    shared, pictures = settings[2:], f"{folder}/samples-50000"
    train, sample, evaluate = world.argv("ddpm")
    assert train == ["train", "cifar10", "--workdir", str(folder), *settings]
    drawn = ["--num", "50000", "--output", pictures, "--format", "png"]
    assert sample == ["sample", str(folder), *drawn, *shared]
    judged = ["--features", "inception", "--weights", str(weights)]
    judged += ["--metrics", "fid", "inception_score", "--output", f"{folder}/evaluation.json"]
    assert evaluate == ["evaluate", pictures, "--reference", str(folder), *judged, *shared]


def test_what_is_evaluated_is_not_evaluated_again(world, script, folder, weights):
    finish(folder)
    (folder / "evaluation.json").write_text("{}")
    said = world.run(script, "--weights", weights, "--workdir", folder)
    assert [words[0] for words in world.argv("ddpm")] == ["train", "sample"]
    assert f"{folder}/evaluation.json is there; remove it to evaluate again" in said.stderr


def test_the_smallest_form_needs_no_weights(world, script, folder):
    finish(folder)
    world.run(script, "--smoke", "--workdir", folder)
    train, sample, evaluate = world.argv("ddpm")
    assert "--smoke" in train
    assert sample[2:6] == ["--num", "64", "--output", f"{folder}/samples-64"]
    assert evaluate[4:8] == ["--features", "pixels", "--metrics", "coverage"]
    said = world.run(script, "--dry-run", "--smoke").stdout.splitlines()
    assert [line.split()[:3] for line in said] == [
        ["ddpm", "train", "cifar10"],
        ["ddpm", "sample", "runs/cifar10-smoke"],
        ["ddpm", "evaluate", "runs/cifar10-smoke/samples-64"],
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_run_and_ends_before_the_samples(world, script, folder, number):
    world.script("trainer", f"wait {0 if number == signal.SIGTERM else 130}")
    process = world.start(script, "--smoke", "--workdir", folder)
    world.wait(lambda: world.notes("ready"), "ready")
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == (0 if number == signal.SIGTERM else 130)
    assert out == "saved\n"
    assert ("run the same command again" in err) == (number == signal.SIGTERM)
    assert world.notes("signals") == [[number]]
    assert len(world.argv("ddpm")) == 1


def test_a_failure_ends_it_with_its_code(world, script, folder):
    finish(folder)
    world.script("trainer", "exit 0", "exit 7")
    world.run(script, "--smoke", "--workdir", folder, code=7)
    assert [words[0] for words in world.argv("ddpm")] == ["train", "sample"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([], "needs --weights FILE"),
        (["--weights", "nowhere"], "--weights nowhere does not exist"),
        (["--smoke", "--num", "many"], "--num many: give a whole number"),
        (["--smoke", "--quick"], "unknown option --quick"),
        (["--weights"], "--weights needs a value"),
    ],
)
def test_a_mistake_is_one_line(world, script, wrong, says):
    said = world.run(script, *wrong, code=2).stderr.splitlines()
    assert len(said) == 1
    assert says in said[0]
    assert world.calls() == []
