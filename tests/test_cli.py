"""What people get wrong: exit code 2, one line that helps, and nothing written or lost."""

import subprocess
import sys

import numpy as np
import pytest

from ddpm_jax import cli
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import Choice
from ddpm_jax.data.pixels import to_pixels
from ddpm_jax.diffusion import SAMPLERS
from ddpm_jax.evaluation.stored import open_samples
from ddpm_jax.files import exclusive
from ddpm_jax.training.logging.run_logger import RunLogger, read_rows
from ddpm_jax.training.train import train
from tests.tiny import TINY, changed

pytestmark = pytest.mark.usefixtures("one_device")

DIGITS = "configs/digits.py"


SWISS_ROLL = ["train", "configs/swiss_roll.py", "--smoke"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = changed(TINY, train={"steps": 4, "preview_every": None}, sample={"num": 4})
    train(config, folder)
    return folder


@pytest.fixture
def told(capsys, tmp_path):
    """Runs a command that must fail, and returns its one line."""

    def command(*words):
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert code == 2, out + err
        assert err.startswith("ddpm: ")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err

    return command


MEASURED = ["--validation.metrics", "frechet_distance"]
CONFIGS = {
    "no config file": (["configs/digit.py"], "did you mean configs/digits.py?"),
    "no config named": ([], "ddpm train needs a CONFIG first"),
    "a setting mistyped": ([DIGITS, "--trian.steps", "3"], "(did you mean --train.steps?)"),
    "a setting half mistyped": ([DIGITS, "--train.step", "3"], "(did you mean --train.steps?)"),
    "a word for a number": ([DIGITS, "--train.steps", "many"], "--train.steps"),
    "a value missing": ([DIGITS, "--train.steps"], "--train.steps"),
    "no batch": ([DIGITS, "--train.batch_size", "0"], "train.batch_size is 0"),
    "no T": ([DIGITS, "--diffusion.timesteps", "0"], "diffusion.timesteps is 0"),
    "a beta too large": ([DIGITS, "--diffusion.beta_T", "1.2"], "diffusion.schedule.beta_T is 1.2"),
    "a negative beta": ([DIGITS, "--diffusion.beta_1=-0.1"], "diffusion.schedule.beta_1 is -0.1"),
    "levels that do not divide": (
        [DIGITS, "--model.multipliers", "1", "2", "2", "2", "2"],
        "8×8, is not divisible by 16",
    ),
    "an unknown schedule": ([DIGITS, "--diffusion.schedule", "cosin"], "did you mean cosine?"),
    "an unknown sampler": (
        [DIGITS, "--sample.sampler", "dddm"],
        "auto, ddim, ddpm, ddpm-beta",
    ),
    "an unknown logger": ([DIGITS, "--train.loggers", "cloud"], "unknown logger 'cloud': known ar"),
    "more steps than T": ([DIGITS, "--sample.steps", "5000"], "at most diffusion.timesteps"),
    "another number of classes": (
        [DIGITS, "--model.num_classes", "7"],
        "set model.num_classes to 10",
    ),
    "devices that do not divide": ([DIGITS, "--mesh.fsdp", "3"], "mesh.fsdp is 3"),
    "more noise than float32 holds": (
        [DIGITS, "--diffusion.schedule", "linear", "--diffusion.timesteps", "10000"],
        "lower beta_T",
    ),
    "an eta for auto": ([DIGITS, "--sample.eta", "0.5"], "left out for auto, which has none"),
    "no limit spelt inf": ([DIGITS, "--optimizer.clip", "inf"], "optimizer.clip is inf"),
    "a seed below 0": ([DIGITS, "--seed=-1"], "seed is -1"),
    "a stray word": ([DIGITS, "fast"], "fast"),
    "validation of nothing": (
        [DIGITS, "--validation.every", "100"],
        "validation.every is 100; it must be None without held-out data; set validation.share or",
    ),
    "all data held out": ([DIGITS, "--validation.share", "1"], "validation.share is 1.0; it must"),
    "hardly any data held out": (
        [DIGITS, "--validation.share", "0.0001"],
        "validation.share is 0.0001; of 1,797 examples it must hold out at least one",
    ),
    "a share of other data": (
        [DIGITS, "--validation.share", "0.1", "--validation.data", "flip=True"],
        "validation.data is ('flip=True',); it must be left out with validation.share",
    ),
    "held-out data of no setting": (
        [DIGITS, "--validation.data", "flop=True"],
        "validation.data is 'flop'; it must be one of flip (did you mean flip?)",
    ),
    "a held-out setting of another type": (
        [DIGITS, "--validation.data", "flip=7"],
        "validation.data flip is 7; it must be bool",
    ),
    "a held-out word": (
        [DIGITS, "--validation.data", "test"],
        "validation.data is 'test'; it must be a setting of data, such as split=test",
    ),
    "held-out pictures of another size": (
        ["cifar10", "--validation.data", "image_size=[8, 8]"],
        "it must be data with examples of the same shape, (32, 32, 3)",
    ),
    "validations between dispatches": (
        [DIGITS, "--validation.share", "0.1", "--validation.every", "101"],
        "validation.every is 101; it must be a multiple of train.steps_per_dispatch",
    ),
    "the best of nothing": (
        [DIGITS, "--validation.keep_best", "validation_loss"],
        "'validation_loss'; it must be None unless validation.every or validation.metrics is set",
    ),
    "the best of an unknown value": (
        [DIGITS, *MEASURED, "--validation.keep_best", "frechet_distanc"],
        "it must be one of frechet_distance (did you mean frechet_distance?)",
    ),
    "the best of a value that has none": (
        [DIGITS, "--validation.metrics", "coverage", "--validation.keep_best", "density"],
        "validation.keep_best is 'density'; it must be one of coverage",
    ),
    "a metric that is unknown": (
        [DIGITS, "--validation.metrics", "frechet"],
        "validation.metrics is 'frechet'; it must be one of",
    ),
    "a metric that does not apply": (
        [DIGITS, "--validation.metrics", "sliced_wasserstein"],
        "validation.metrics: the metric sliced_wasserstein does not apply: it needs points",
    ),
    "an option of a metric that can't be": (
        [DIGITS, "--validation.metrics", "coverage --k 0"],
        "k is 0: it must be at least 1",
    ),
    "snapshots of nothing": (
        [DIGITS, "--train.snapshot_every", "10"],
        "train.snapshot_every is 10; it must be None without averages by power",
    ),
    "an average that can't be": (
        [DIGITS, "--train.averages", "ema", "long=power --sigma_rel 0.5"],
        "train.averages.long.sigma_rel is 0.5: it must be above 0 and at most 0.2886",
    ),
    "metrics without previews": (
        [DIGITS, *MEASURED, "--train.preview_every", "None"],
        "validation.metrics is ('frechet_distance',); it must be empty without previews",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_can_not_be_trained_is_refused_before_anything_is_written(
    case, told, tmp_path
):
    words, expected = CONFIGS[case]
    workdir = ["--workdir", tmp_path / "new"] if words else []
    assert expected in told("train", *words, *workdir)
    assert not (tmp_path / "new").exists()


def test_a_data_set_that_is_not_prepared_names_the_command_that_prepares_it(told, tmp_path):
    words = ("--data.data_dir", tmp_path, "--workdir", tmp_path / "new")
    line = told("train", "configs/cifar10.py", *words)
    assert f"TFDS_DATA_DIR={tmp_path} ddpm data prepare cifar10" in line
    assert not (tmp_path / "new").exists()


def test_a_folder_with_another_network_is_left_as_it_is(told, run):
    before = {item: item.stat().st_mtime_ns for item in run.rglob("*")}
    words = ("--workdir", run, "--train.batch_size", 16)
    assert "holds a run with model.kind = 'mlp', and this config has" in told(
        "train", DIGITS, *words
    )
    assert {item: item.stat().st_mtime_ns for item in run.rglob("*")} == before


def test_a_workdir_that_is_a_file_or_below_one_is_refused(told, tmp_path):
    (tmp_path / "file").write_text("mine")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(workdir) in told("train", DIGITS, "--smoke", "--workdir", workdir)
    assert (tmp_path / "file").read_text() == "mine"


SAMPLES = {
    "a label that does not exist": (["--num", "1", "--labels", "10"], "there is no class 10"),
    "noise for no stage": (["--then_noise", "0.3"], "--then_noise needs --then RUN"),
    "a grid of too much data": (
        ["--grid", "logsnr", "--lowest", "50", "--steps", "5"],
        "sample.grid.lowest is 50: it must be below the last log SNR",
    ),
    "more labels than samples": (["--num", "1", "--labels", "1", "2"], "2 labels for 1 samples"),
    "a class that does not exist": (["--labels", "cat"], "there is no class cat; they are 0 … 9"),
    "an unknown sampler": (
        ["--sampler", "dddm"],
        f"one of {', '.join(sorted([*SAMPLERS, 'auto']))}",
    ),
    "more steps than T": (
        ["--steps", "21"],
        "sample.steps is 21; it must be at most T, which is 20",
    ),
    "no steps": (["--steps", "0"], "sample.steps is 0"),
    "no samples": (["--num", "0"], "the number of samples is 0"),
    "more samples than memory holds": (["--num", "4000000000"], "free; draw fewer, or draw them"),
    "as many, and their mend": (["--num", "4000000000"], "--output FOLDER writes them in parts"),
    "more samples than a seed has": (["--num", "4294967297"], "at most 4,294,967,296"),
    "as many into a folder": (["--num", "4294967297", "--output", "many"], "at most 4,294,967,296"),
    "a number of samples without end": (["--num", "1" + 400 * "0"], "samples is 1000000"),
    "a batch of samples without end": (["--batch_size", "1" + 40 * "0"], "at most 2,147,483,647"),
    "an endless guidance": (["--guidance", "1e400"], "guidance is inf; it must be a finite number"),
    "a guidance that is none": (["--guidance", "nan"], "guidance is nan; it must be a finite"),
    "an eta for ddpm": (["--sampler", "ddpm", "--eta", "0.5"], "left out for ddpm, which has none"),
    "an eta too large": (["--sampler", "ddim", "--eta", "2"], "sample.sampler.eta is 2"),
    "another ending": (["--output", "samples.jpg"], "one of .png, .gif, .npz"),
    "an unknown format": (["--output", "x", "--format", "jpg"], "one of arr_0, npz, png"),
    "pictures in one file": (
        ["--output", "x.npz", "--format", "png"],
        "--output x.npz: with --format png it must be a folder",
    ),
    "a grid of arrays": (
        ["--format", "arr_0"],
        ".png: with --format arr_0 it must be a folder or a .npz",
    ),
    "a folder that is not there": (["--output", "nowhere/at/all.png"], "can't be written"),
    "a step that was not saved": (["--checkpoint", "3"], "has no checkpoint 3; it has 4"),
    "no best": (["--checkpoint", "best"], "has no best checkpoint: training keeps one with valid"),
    "a checkpoint that is no step": (["--checkpoint", "bset"], "--checkpoint"),
    "a mistyped option": (["--gidance", "3"], "(did you mean --guidance?)"),
    "a seed below 0": (["--seed=-1"], "seed is -1"),
    "a seed too large": (["--seed", "4294967296"], "seed is 4294967296"),
    "labels without any": (["--labels"], "the number of samples is 0"),
    "other parameters": (["--params", "best"], "params"),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_samples_that_can_not_be_drawn_are_refused(case, told, run, monkeypatch):
    words, expected = SAMPLES[case]
    before = sorted(run.rglob("*"))
    assert expected in told("sample", run, *words)
    assert sorted(run.rglob("*")) == before


def test_a_folder_without_checkpoints_is_no_run(told, tmp_path):
    assert f"{tmp_path} has no checkpoints; train first" in told("sample", tmp_path)
    assert "does not exist; train first" in told("sample", tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_folder_is_refused(told, run, tmp_path):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert "is a folder; name a file in it" in told("sample", run, "--output", folder)


def test_guidance_without_dropped_labels_is_refused(told, tmp_path):
    plain = changed(
        TINY, train={"steps": 1, "label_dropout": 0.0, "preview_every": None}, sample={"num": 1}
    )
    train(plain, tmp_path / "plain")
    assert "sample.guidance needs" in told("sample", tmp_path / "plain", "--guidance", "1")


def test_the_other_commands_say_what_they_need(told, run, tmp_path):
    assert "did you mean sample?" in told("sampel", run)
    assert "is a file; name the folder of a run" in told("sample", DIGITS)
    assert "--smoke is for config files" in told("train", run, "--smoke")
    assert "--workdir needs a value" in told("train", DIGITS, "--workdir", "--smoke")
    assert "did you mean forward?" in told("plot", run, "forwards")
    assert "needs a figure, samples|animation|" in told("plot", DIGITS)
    assert "this figure is a .png file" in told("plot", run, "loss", "--output", "loss.pdf")
    assert "needs a trained run" in told("plot", DIGITS, "loss", "--output", tmp_path / "x.png")
    assert "did you mean accuracy?" in told("evaluate", run, "--metrics", "acuracy")
    assert "needs points" in told("evaluate", run, "--metrics", "sliced_wasserstein")
    assert "unknown setting --trian.steps" in told("info", DIGITS, "--trian.steps", "3")
    assert "has no config.json" in told("info", tmp_path)
    assert "use: ddpm data prepare NAME" in told("data", "prepare")


def test_a_damaged_config_of_a_run_is_named(told, tmp_path):
    (tmp_path / "config.json").write_text('{"train": {"stepz": 3}}')
    assert "config.json: unknown setting train.stepz" in told("info", tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "is not valid JSON" in told("info", tmp_path)


def test_schedules_that_can_not_be_are_left_out_of_their_figure(tmp_path):
    path = tmp_path / "long.py"
    path.write_text(
        "from ddpm_jax.config import *\n\n\ndef get_config():\n"
        '    return Config(diffusion=DiffusionConfig(schedule="cosine", timesteps=10_000))\n'
    )
    picture = tmp_path / "schedules.png"
    assert cli.main(["plot", str(path), "schedules", "--output", str(picture)]) == 0
    assert picture.stat().st_size > 1000


def test_a_configs_own_figures_are_drawn_after_training_and_by_one_command(tmp_path, capsys):
    run = tmp_path / "run"
    words = [*SWISS_ROLL, "--workdir", str(run), "--figures"]
    assert cli.main([*words, "forward --times 3", "reverse --num 9"]) == 0, capsys.readouterr().err
    figures = {run / "forward.png", run / "reverse.png"}
    assert figures < set(run.iterdir())
    for path in figures:
        path.unlink()
    assert cli.main(["plot", str(run)]) == 0
    assert figures < set(run.iterdir())


def test_a_figure_that_can_not_be_drawn_costs_a_finished_run_a_line(tmp_path, capsys):
    run = tmp_path / "run"
    nowhere, elsewhere = f"{tmp_path}/nowhere/it.png", tmp_path / "it.png"
    figures = [f"forward --output {nowhere}", f"schedules --output {elsewhere}"]
    words = [*SWISS_ROLL, "--workdir", str(run), "--figures", *figures]
    assert cli.main(words) == 0
    assert "the figure forward was not drawn" in capsys.readouterr().err
    assert elsewhere.stat().st_size > 1000
    # What a finished run has drawn stays as it is.
    elsewhere.write_text("kept")
    assert cli.main(words) == 0
    assert elsewhere.read_text() == "kept"


WRONG_FIGURES = {
    "froward": "(did you mean forward?)",
    "forward --times 1": "times is 1; it must be at least 2",
    "schedules --num 3": "the figure schedules has no such option",
    "reverse --tims 3": "did you mean --times?",
    "": "not nothing",
}


@pytest.mark.parametrize("figure", WRONG_FIGURES)
def test_a_figure_that_can_not_be_is_refused_before_training(figure, told, tmp_path):
    words = [*SWISS_ROLL, "--workdir", tmp_path / "run", "--figures", figure]
    assert WRONG_FIGURES[figure] in told(*words)
    assert list(tmp_path.iterdir()) == []


def test_all_checkpoints_damaged_is_an_error_and_never_a_fresh_start(told, tmp_path):
    config = changed(TINY, train={"steps": 1, "preview_every": None}, sample={"num": 1})
    train(config, tmp_path / "run")
    (tmp_path / "run/checkpoints/1/meta.json").unlink()
    words = ["sample", tmp_path / "run"]
    assert cli.main([str(word) for word in words]) == 2
    assert Checkpoints(tmp_path / "run").steps() == [1]


@pytest.mark.parametrize("words", [[], *([name] for name in cli.COMMANDS)])
def test_help_is_no_mistake(words, capsys):
    assert cli.main([*words, "--help"]) == 0
    out, err = capsys.readouterr()
    assert "ddpm" in out
    assert not err


def test_samples_go_where_they_are_asked_to(run, tmp_path, capsys):
    for name in ("a.png", "a.gif", "a.npz"):
        words = ["sample", run, "--num", "4", "--labels", "3", "--output", tmp_path / name]
        assert cli.main([str(word) for word in words]) == 0
        assert (tmp_path / name).stat().st_size > 100
    out = capsys.readouterr().out
    assert "4 samples of step 4" in out
    assert "network calls a sample" in out


def test_samples_have_the_format_that_they_are_asked_for(run, tmp_path):
    for name in ("a.npz", "b.npz --format arr_0", "c --format png", "d --format arr_0"):
        words = f"sample {run} --num 4 --output {tmp_path}/{name}".split()
        assert cli.main(words) == 0
    with np.load(tmp_path / "a.npz") as drawn, np.load(tmp_path / "b.npz") as found:
        pixels = to_pixels(drawn["samples"])
        np.testing.assert_array_equal(found["arr_0"], pixels)
        np.testing.assert_array_equal(found["arr_1"], drawn["labels"])
    for folder in ("c", "d"):
        source = open_samples(tmp_path / folder).source
        np.testing.assert_array_equal(source.gather(np.arange(4)).examples, pixels)
    assert len([*(tmp_path / "c").glob("00000*.png")]) == 4


def test_mistakes_in_a_config_file_are_told_with_their_line(told, tmp_path):
    path = tmp_path / "mine.py"
    head = "from ddpm_jax.config import Config, TrainConfig\n"
    for body, expected in (
        (
            "def get_config():\n    return Config(train=TrainConfig(step=3))\n",
            "mine.py:3: TypeError",
        ),
        ("import nowhere\n", "mine.py:2: ModuleNotFoundError"),
        ("def get_config(:\n", "SyntaxError"),
    ):
        path.write_text(head + body)
        assert expected in told("train", path, "--workdir", tmp_path / "new")


def test_one_folder_is_trained_in_by_one_process(told, tmp_path):
    with exclusive(tmp_path / "run", report=print):
        words = ("train", DIGITS, "--smoke", "--train.batch_size", 16)
        assert "another process is training in" in told(*words, "--workdir", tmp_path / "run")


def test_a_state_that_is_not_finite_is_never_saved(tmp_path, capsys):
    # The parameters overflow at once, and the row that would show it is due only later.
    run = tmp_path / "run"
    words = ["train", "configs/swiss_roll.py", "--smoke", "--workdir", run]
    words += ["--optimizer.learning_rate", "1e30", "--optimizer.clip", "None"]
    words += ["--optimizer.warmup", "0", "--train.log_every", "20", "--train.preview_every", "None"]
    assert cli.main([str(word) for word in words]) == 2
    assert "is not finite at step" in capsys.readouterr().err.splitlines()[-1]
    assert Checkpoints(run).steps() == []


def test_harmless_changes_take_effect_and_are_told(run):
    config = changed(
        TINY,
        train={"steps": 6, "preview_every": None},
        sample={"num": 4},
        optimizer={
            "learning_rate": 0.5,
            "clip": None,
            "method": Choice("adamw", weight_decay=0.1),
        },
    )
    lines = []
    train(config, run, report=lines.append)
    assert "optimizer.learning_rate: 0.01 -> 0.5" in lines
    assert "going on from step 4" in lines
    assert Checkpoints(run).steps()[-1] == 6


def test_rows_beyond_the_step_a_run_goes_on_from_are_taken_back(tmp_path):
    values = {"loss": 1.0, "grad_norm": 1.0, "images_per_s": 1.0}
    for start, rows, expected in ((0, (2, 4, 6), [2, 4, 6]), (4, (6,), [2, 4, 6])):
        journal = RunLogger(tmp_path, start=start, total=6)
        for row in rows:
            journal.row(row, values)
        journal.close()
        assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == expected


def test_a_reader_that_leaves_is_no_error():
    words = [sys.executable, "-m", "ddpm_jax.cli", "plot", "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ddpm:
        assert ddpm.stdout
        assert ddpm.stderr
        ddpm.stdout.close()
        assert ddpm.wait(60) == 141
        assert ddpm.stderr.read() == b""
