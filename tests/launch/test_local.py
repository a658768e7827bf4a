"""launch/local.sh: N processes that know each other, and one exit code."""

import os
import signal

import pytest


def test_each_process_gets_its_number(world, launch, words):
    world.env["XLA_FLAGS"] = "--a=1 --xla_force_host_platform_device_count=8"
    world.run(launch / "local.sh", "3", "ddpm", "train", *words)
    calls = world.calls("ddpm")
    assert sorted(call["argv"][-1] for call in calls) == ["0", "1", "2"]
    (port,) = {call["argv"][-5] for call in calls}
    assert 0 < int(port.removeprefix("127.0.0.1:")) < 65536
    for call in calls:
        *given, coordinator, _, num, three, process, _ = call["argv"]
        assert given == ["train", *words]
        names = [f"--distributed.{it}" for it in ("coordinator", "num_processes", "process_id")]
        assert [coordinator, num, three, process] == [*names[:2], "3", names[2]]
        assert call["env"]["JAX_PLATFORMS"] == "cpu"
        assert call["env"]["JAX_NUM_CPU_DEVICES"] == "1"
        assert call["env"]["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] == "gloo"
        assert call["env"]["XLA_FLAGS"].split() == ["--a=1"]


def test_output_is_labelled(world, launch):
    talk = ["bash", "-c", 'echo one; echo two >&2; printf "  three"']
    said = world.run(launch / "local.sh", "2", *talk, "name")
    for i in (0, 1):
        mine = [line for line in said.stdout.splitlines() if line.startswith(f"[{i}] ")]
        assert mine == [f"[{i}] one", f"[{i}] two", f"[{i}]   three"]


# The last argument of the script is the I of --distributed.process_id I.
BY_NUMBER = 'i="${@: -1}"; '


def test_the_first_failure_is_the_exit_code(world, launch):
    code = BY_NUMBER + "sleep $((i - 1 > 0)); exit $((i == 0 ? 0 : i + 4))"
    said = world.run(launch / "local.sh", "3", "bash", "-c", code, "name", code=5)
    assert "process 1 exited 5" in said.stderr


def test_a_process_that_hangs_after_a_failure_is_ended(world, launch):
    code = BY_NUMBER + "if ((i == 1)); then exit 3; fi; exec sleep 60"
    said = world.run(launch / "local.sh", "--grace", "0", "3", "bash", "-c", code, "name", code=3)
    assert "process 0 exited 143" in said.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_once(world, launch, number):
    world.script("trainer", "wait 0")
    process = world.start(launch / "local.sh", "2", "ddpm")
    world.wait(lambda: len(world.notes("ready")) == 2, "two processes")
    # To the process group, as a terminal does.
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]
    assert world.notes("signals") == [[number], [number]]


def test_a_dry_run_prints_what_would_run(world, launch, words):
    said = world.run(launch / "local.sh", "--dry-run", "2", "ddpm", *words)
    assert world.calls() == []
    world.run("sh", "-c", said.stdout)
    assert [argv[: len(words)] for argv in world.argv("ddpm")] == [words, words]


@pytest.mark.parametrize(
    "wrong", [["0", "ddpm"], ["x", "ddpm"], ["2"], [], ["--what", "2", "ddpm"]]
)
def test_a_mistake_is_one_line(world, launch, wrong):
    said = world.run(launch / "local.sh", *wrong, code=2)
    assert len(said.stderr.splitlines()) == 1
    assert world.calls() == []
