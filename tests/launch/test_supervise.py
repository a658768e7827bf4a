"""The supervisor restarts only what it should, and passes signals on."""

import json
import os
import runpy
import signal

import pytest


def a_run(folder, steps):
    """Makes a run's folder with a number of steps and no checkpoint."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"train": {"steps": steps}}))
    return folder


def test_a_crashed_run_is_restarted_until_it_is_finished(world, launch, words):
    world.script("trainer", "exit 7", "kill", "exit 0")
    said = world.run(launch / "supervise.sh", "--pause", "0", "ddpm", "train", *words)
    assert world.argv("ddpm") == [["train", *words]] * 3
    assert "exited 7; restart 1 of 20" in said.stderr
    assert "exited 137; restart 2 of 20" in said.stderr


@pytest.mark.parametrize("code", [0, 2, 130])
def test_a_final_exit_code_is_not_restarted(world, launch, code):
    world.script("trainer", f"exit {code}", "exit 0")
    world.run(launch / "supervise.sh", "--pause", "0", "ddpm", code=code)
    assert len(world.calls("ddpm")) == 1


def test_it_gives_up_with_the_last_code(world, launch):
    world.script("trainer", "exit 1", "exit 9")
    world.run(launch / "supervise.sh", "--pause", "0", "--restarts", "2", "ddpm", code=9)
    assert len(world.calls("ddpm")) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_passed_on_once_and_nothing_is_restarted(world, launch, number, code):
    world.script("trainer", "wait 0" if number == signal.SIGTERM else "wait 130", "exit 0")
    process = world.start(launch / "supervise.sh", "--pause", "60", "ddpm")
    world.wait(lambda: world.notes("ready"), "ready")
    # To the process group, as a terminal does.
    os.killpg(process.pid, number)
    process.communicate(timeout=10)
    assert process.returncode == code
    assert world.notes("signals") == [[number]]
    assert len(world.calls("ddpm")) == 1


def test_sigterm_in_the_pause_ends_at_once(world, launch):
    world.script("trainer", "exit 7")
    process = world.start(launch / "supervise.sh", "--pause", "60", "ddpm")
    assert process.stderr is not None
    process.stderr.readline()
    process.terminate()
    process.communicate(timeout=5)
    assert process.returncode == 143


def test_exit_0_with_steps_left_is_not_the_end(world, launch, tmp_path):
    run = a_run(tmp_path / "a run", steps=3)
    world.script("trainer", f"step {run}")
    command = ["ddpm", "train", "c.py", "--workdir", run]
    world.run(launch / "supervise.sh", "--pause", "0", *command)
    assert len(world.calls("ddpm")) == 3
    # If another program restarts it, the exit code must show that it is not finished.
    a_run(tmp_path / "once", steps=9)
    command[-1] = tmp_path / "once"
    world.script("trainer", f"step {tmp_path / 'once'}")
    world.run(launch / "supervise.sh", "--restarts", "0", *command, code=75)


def test_sigterm_in_the_last_step_is_the_end(world, launch, tmp_path):
    run = a_run(tmp_path, steps=0)
    world.script("trainer", "wait 0")
    process = world.start(launch / "supervise.sh", "ddpm", "train", "c.py", f"--workdir={run}")
    world.wait(lambda: world.notes("ready"), "ready")
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("ddpm train configs/a.py", "runs/a"),
        ("ddpm train configs/a.py --smoke", "runs/a-smoke"),
        ("env X=1 ddpm train configs/a.py --workdir gs://b/r", "gs://b/r"),
        ("ddpm train configs/a.py --workdir=r", "r"),
        ("ddpm train", None),
        ("ddpm sample runs/a", None),
    ],
)
def test_the_folder_is_found_in_the_command(launch, command, folder):
    assert runpy.run_path(str(launch / "finished.py"))["workdir"](command.split()) == folder


def test_a_folder_says_whether_its_run_is_finished(launch, tmp_path):
    finished = runpy.run_path(str(launch / "finished.py"))["finished"]
    run = a_run(tmp_path / "run", steps=100)
    assert finished(str(run)) is False
    (run / "checkpoints" / "100.tmp").mkdir()
    (run / "checkpoints" / "99").mkdir()
    assert finished(str(run)) is False
    (run / "checkpoints" / "100").mkdir()  # Empty, it is nobody's checkpoint.
    assert finished(str(run)) is False
    (run / "checkpoints" / "100" / "checksums.json").touch()
    assert finished(str(run)) is True
    assert finished(str(tmp_path / "none")) is None
