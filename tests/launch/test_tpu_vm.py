"""launch/tpu_vm.sh with a stand-in for a TPU of two hosts, from create to delete."""

import re
import shlex
import shutil
import subprocess

import pytest

PLACE = ["--zone", "us-east5-b", "--project", "p"]
PLACED = ["--zone=us-east5-b", "--project=p"]
TRAIN = ["ddpm", "train", "configs/a.py", "--workdir", "gs://bucket/a run"]


@pytest.fixture
def tpu(world, checkout):
    world.stand_for_python3()
    # Much shorter pauses, in sh, which starts faster than the recording stand-in.
    (world.bin / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.02\n")
    (world.bin / "sleep").chmod(0o755)

    def call(action, *words, code=0):
        return world.run(checkout / "launch/tpu_vm.sh", action, "tpu1", *PLACE, *words, code=code)

    return call


def gcloud(world):
    """Returns the calls as (queued-resources VERB …) and (VERB …) of the TPU's hosts."""
    groups = {"queued-resources": "", "tpu-vm": "host "}
    return [groups[argv[2]] + argv[3] for argv in world.argv("gcloud")]


def ended(world, host):
    code = world.folder / host / "code"
    world.wait(lambda: code.exists() and code.read_text(), f"{host}'s training ended")
    return code.read_text().strip()


def test_from_nothing_to_a_run_and_back(world, tpu, words):
    tpu("create", "--type", "v6e-8", "--spot", "--create-flag", "--service-account=me")
    tpu("setup")
    world.script("trainer", "exit 7", "exit 0")
    tpu("train", "--", *TRAIN, *words)
    for host in ("worker0", "worker1"):
        assert ended(world, host) == "0"
        mine = [call["argv"] for call in world.calls() if call["home"] == host]
        (install,) = [argv for argv in mine if "install" in argv and "pip" in argv]
        assert install[-1] == f"{world.folder}/{host}/ddpm[tpu]"
        trained = [argv for argv in mine if argv[0] == "train"]
        assert set(map(tuple, trained)) == {(*TRAIN[1:], *words)}
    # Three runs: two that ended, and a crash after which the supervisor restarted.
    assert len(world.calls("ddpm")) == 3
    said = tpu("status").stdout
    assert "tpu1: ACTIVE" in said
    assert said.count(": finished") == 2
    assert "restart 1 of 20" in "".join(
        tpu("logs", "--no-follow", "--worker", host).stdout for host in "01"
    )
    # When it is stopped, it saves, and the supervisor does not restart it.
    world.script("trainer", "wait 0")
    tpu("train", "--", *TRAIN)
    world.wait(lambda: len(world.notes("ready")) == 2, "two hosts train")
    tpu("stop")
    assert world.notes("signals") == [[15], [15]]
    assert tpu("status").stdout.count(": stopped") == 2
    # systemd does not read the command, because its rules for %, $ and quotes differ.
    unit = (world.folder / "worker0/system/ddpm.service").read_text()
    assert not set("%$") & set(unit)
    assert re.search(r"^ExecStart=/bin/bash \S+/ddpm-run.sh$", unit, re.MULTILINE)
    assert "WantedBy=multi-user.target" in unit
    tpu("delete")
    assert "ABSENT" in tpu("status").stdout
    create, *_ = world.argv("gcloud")
    assert create == [
        *["compute", "tpus", "queued-resources", "create", "tpu1", "--node-id=tpu1"],
        *["--accelerator-type=v6e-8", "--runtime-version=v2-alpha-tpuv6e", "--spot"],
        *["--service-account=me", *PLACED],
    ]
    *_, delete, describe = [argv[3:] for argv in world.argv("gcloud")]
    assert delete == ["delete", "tpu1", "--force", "--quiet", *PLACED]
    assert describe == ["describe", "tpu1", "--format=value(state.state)", *PLACED]


def test_keep_continues_after_a_preemption(world, tpu):
    # The first TPU trains until it is preempted, the second to the end.
    world.script("lives", "CREATING ACTIVE ACTIVE SUSPENDED", "WAITING_FOR_RESOURCES ACTIVE")
    world.script("trainer", "wait 0", "wait 0", "exit 0")
    keep = ["--keep", "--poll", "0", "--type", "v5litepod-16", "--spot", "--", *TRAIN]
    said = tpu("train", *keep).stderr
    queue = [verb for verb in gcloud(world) if verb in ("create", "delete", "host scp")]
    assert queue == ["create", "host scp", "delete", "create", "host scp"]
    seen = "ABSENT CREATING ACTIVE SUSPENDED WAITING_FOR_RESOURCES ACTIVE"
    assert re.findall(r"tpu1 is (\w+)", said) == seen.split()
    assert "finished; tpu1 still costs" in said
    assert set(map(tuple, world.argv("ddpm"))) == {tuple(TRAIN[1:])}


def test_keep_reports_a_training_that_failed(world, tpu):
    world.script("trainer", "exit 2")
    said = tpu("train", "--keep", "--poll", "0", "--type", "v4-8", "--", *TRAIN, code=1).stderr
    assert "the training failed 2" in said


def test_keep_gives_up_on_a_tpu_it_never_reaches(world, tpu):
    world.script("unreachable", "yes")
    said = tpu("train", "--keep", "--poll", "0", "--type", "v4-8", "--", *TRAIN, code=1).stderr
    assert "can't be reached" in said


@pytest.mark.parametrize(
    ("type", "runtime"),
    [("v3-32", "tpu-ubuntu2204-base"), ("v5p-8", "v2-alpha-tpuv5"), ("v9-8", None)],
)
def test_each_generation_has_its_image(world, tpu, type, runtime):
    tpu("create", "--type", type, code=0 if runtime else 2)
    assert [f"--runtime-version={runtime}" in argv for argv in world.argv("gcloud")] == (
        [True] if runtime else []
    )


def test_an_old_python_is_replaced(world, tpu):
    world.script("pythons", "none")
    tpu("setup")
    mine = [call["argv"] for call in world.calls("python3") if call["home"] == "worker0"]
    assert ["-m", "pip", "install", "--quiet", "--user", "--upgrade", "uv"] in mine
    assert [it[:3] for it in mine if "venv" in it] == [["-m", "uv", "venv"]]


def test_setup_sends_the_checkout_as_it_is(world, checkout, tmp_path):
    copy = tmp_path / "with space"
    shutil.copytree(checkout, copy)
    (copy / "pyproject.toml").write_text("# changed, not committed\n")
    before = subprocess.check_output(["git", "-C", copy, "status", "--porcelain"])
    world.run(copy / "launch/tpu_vm.sh", "setup", "tpu1")
    for host in ("worker0", "worker1"):
        sent = (world.folder / host / "ddpm/pyproject.toml").read_text()
        assert sent == "# changed, not committed\n"
    assert subprocess.check_output(["git", "-C", copy, "status", "--porcelain"]) == before


def test_setup_needs_a_checkout(world, launch, tmp_path):
    shutil.copytree(launch, tmp_path / "launch")
    said = world.run(tmp_path / "launch/tpu_vm.sh", "setup", "tpu1", code=2).stderr
    assert "give --git URL" in said
    assert world.calls() == []


def test_setup_from_a_repository(world, tpu, checkout, tmp_path):
    odd = tmp_path / "it's $HOME"
    shutil.copytree(checkout, odd)
    tpu("setup", "--git", f"file://{odd}")
    assert (world.folder / "worker1/ddpm/launch/tpu_worker.sh").is_file()
    assert gcloud(world) == ["host ssh"]


ACTIONS = {
    "create": ["--type", "v6e-8"],
    "setup": [],
    "train": ["--", *TRAIN, "it's", "$HOME", "two\nlines"],
    "train --keep": ["--keep", "--type", "v6e-8", "--spot", "--", *TRAIN],
    "logs": ["--worker", "1", "--lines", "5"],
    "status": [],
    "stop": [],
    "delete": [],
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_dry_run_prints_exactly_the_commands(world, tpu, action):
    said = tpu(action.split()[0], "--dry-run", *ACTIONS[action]).stdout
    assert world.calls() == []
    words = shlex.split(said)
    assert words[0] in ("gcloud", "git")
    gone = {"train": "ssh", "train --keep": "describe create scp ssh ssh", "setup": "scp ssh"}
    gone |= {"logs": "ssh", "status": "describe ssh", "stop": "ssh"}
    verbs = [words[place + 4] for place, word in enumerate(words) if word == "gcloud"]
    assert " ".join(verbs) == gone.get(action, action)
    if action == "train":
        (line,) = [word for word in words if word.startswith("--command=")]
        _, start, *arrived = shlex.split(line.removeprefix("--command="))
        assert [start, *arrived] == ["start", *ACTIONS[action][1:]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["create", "tpu1"], "needs --type"),
        (["create", "Tpu 1", "--type", "v4-8"], "the TPU's name"),
        (["train", "tpu1"], "needs -- COMMAND"),
        (["train", "tpu1", "--keep", "--type", "v4-8", "--", "ddpm", "train", "a"], "gs://"),
        (["train", "tpu1", "ddpm"], "a second name"),
        (["delete", "tpu1", "--", "x"], "takes no command"),
        (["setup", "tpu1", "--ref", "main"], "--ref needs --git"),
        (["create", "tpu1", "--type"], "--type needs a value"),
        (["create", "tpu1", "--tpye", "v4-8"], "unknown option --tpye"),
        (["make", "tpu1"], "no action make"),
        ([], "needs an action"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_called(world, launch, wrong, said):
    stderr = world.run(launch / "tpu_vm.sh", *wrong, code=2).stderr
    assert len(stderr.splitlines()) == 1
    assert said in stderr
    assert world.calls() == []
