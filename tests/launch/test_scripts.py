"""Checks of every launch script, and launch/gpu.sh."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent.parent / "launch"
SCRIPTS = sorted(it.name for it in LAUNCH.iterdir() if it.suffix in (".sh", ".sbatch"))
RUN = [name for name in SCRIPTS if name != "common.sh"]


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; the test extra brings it")
    files = [f"launch/{name}" for name in SCRIPTS]
    said = subprocess.run(
        ["shellcheck", "--external-sources", *files],
        cwd=LAUNCH.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("name", RUN)
def test_help_names_every_option(world, name):
    assert os.access(LAUNCH / name, os.X_OK)
    said = world.run(LAUNCH / name, "--help").stdout
    assert "usage: " in said
    arms = re.findall(r"^ +(-[^)\n]*)\) ", (LAUNCH / name).read_text(), re.MULTILINE)
    for option in re.findall(r"--[a-z][a-z-]*", " ".join(arms)):
        if option != "--help":
            assert option in said
    assert world.calls() == []


@pytest.mark.parametrize("name", RUN)
def test_the_guide_names_every_script(name):
    assert name in (LAUNCH / "README.md").read_text()


def test_the_guides_commands_parse(world):
    """Every command line of the guide is accepted by its script."""
    text = (LAUNCH / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^\$ (launch/[\w.]+ .*)$", text, re.MULTILINE)
    assert {line.split()[0] for line in lines} >= {"launch/tpu_vm.sh", "launch/kubernetes.sh"}
    for line in lines:
        words = line.split("  #")[0].split()
        first = 2 if words[0] in ("launch/tpu_vm.sh", "launch/kubernetes.sh") else 1
        world.run(*words[:first], "--dry-run", *words[first:])
    assert world.calls() == []


def test_the_guides_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", (LAUNCH / "README.md").read_text()):
        assert "://" in target or (LAUNCH / target).exists()


def test_gpu_runs_one_process_that_sees_what_it_should(world, words):
    world.run(LAUNCH / "gpu.sh", "ddpm", *words)
    world.run(LAUNCH / "gpu.sh", "--gpus", "2,GPU-ab12", "ddpm", *words)
    every, two = world.calls("ddpm")
    assert every["argv"] == two["argv"] == words
    assert "CUDA_VISIBLE_DEVICES" not in every["env"]
    assert two["env"]["CUDA_VISIBLE_DEVICES"] == "2,GPU-ab12"
    assert two["env"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_gpu_keeps_a_log(world, tmp_path):
    world.env.pop("CUDA_VISIBLE_DEVICES", None)
    log = tmp_path / "a log"
    world.script("trainer", "wait 0")
    process = world.start(LAUNCH / "gpu.sh", "--log", log, "ddpm")
    world.wait(lambda: world.notes("ready"), "ready")
    # To the process group, as a terminal does: later output must still be logged.
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143
    assert "saved" in log.read_text()
    assert "stopped by a signal" in log.read_text()
    world.run(LAUNCH / "gpu.sh", "--detach", "--log", log, "bash", "-c", "echo $((40 + 2))")
    world.wait(lambda: "42" in log.read_text(), "the detached command's output")


@pytest.mark.parametrize("wrong", [["--gpus", "0 1", "x"], ["--detach", "x"], [], ["--gpu", "x"]])
def test_a_mistake_with_gpu_is_one_line(world, wrong):
    assert len(world.run(LAUNCH / "gpu.sh", *wrong, code=2).stderr.splitlines()) == 1
