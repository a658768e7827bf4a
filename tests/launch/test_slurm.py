"""launch/slurm.sbatch as a job of a stand-in for Slurm."""

import json

import pytest


def requeued(world):
    return ["requeue", "17"] in world.argv("scontrol")


def test_a_job_runs_its_command_and_ends(world, launch, words):
    world.run("sbatch", launch / "slurm.sbatch", "ddpm", "train", *words)
    assert world.argv("ddpm") == [["train", *words]]
    (step,) = world.argv("srun")
    assert step[: step.index("--")] == [
        *["--gpu-bind=none", "--kill-on-bad-exit=0", "--wait=300", "--cpus-per-task=4"]
    ]
    assert not requeued(world)
    options = json.loads((world.folder / "options").read_text())
    assert options["signal"] == "B:TERM@120"
    assert "requeue" in options
    assert options["open-mode"] == "append"


@pytest.mark.parametrize(("tasks", "ids"), [("1", "0,1,2,3,4,5,6,7"), ("8", None)])
def test_a_task_alone_on_its_node_drives_all_gpus(world, launch, tasks, ids):
    options = ["--ntasks-per-node", tasks, "--gpus-per-node", "8"]
    world.run("sbatch", *options, launch / "slurm.sbatch", "ddpm")
    (call,) = world.calls("ddpm")
    assert call["env"].get("JAX_LOCAL_DEVICE_IDS") == ids


@pytest.mark.parametrize(("state", "again"), [("RUNNING", True), ("CANCELLED", False)])
def test_sigterm_saves_and_requeues_unless_cancelled(world, launch, state, again):
    world.script("trainer", "wait 0")
    world.script("job", state)
    process = world.start("sbatch", launch / "slurm.sbatch", "ddpm", "train")
    world.wait(lambda: world.notes("ready"), "ready")
    process.terminate()
    _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    # The script waited for the save.
    assert ("saved before the end" if again else "cancelled; saved") in said
    assert "143" not in said
    assert world.notes("signals") == [[15]]
    assert requeued(world) is again


def test_tasks_that_were_preempted_are_requeued(world, launch, tmp_path):
    """Slurm signals the tasks; the shell sees only their exit code 0."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"train": {"steps": 2}}))
    world.script("trainer", f"step {tmp_path}")
    command = ["ddpm", "train", "a.py", "--workdir", tmp_path]
    world.run("sbatch", launch / "slurm.sbatch", *command)
    assert requeued(world)
    (world.folder / "calls").rename(world.folder / "before")
    (tmp_path / "checkpoints/2").mkdir()
    (tmp_path / "checkpoints/2/checksums.json").touch()
    world.run("sbatch", launch / "slurm.sbatch", *command)
    assert not requeued(world)


@pytest.mark.parametrize(
    ("code", "restarts", "ends", "again"),
    [(7, "0", 0, True), (7, "3", 7, False), (2, "0", 2, False), (130, "0", 130, False)],
)
def test_a_crash_is_tried_again_and_a_mistake_not(world, launch, code, restarts, ends, again):
    world.env |= {"SLURM_RESTART_COUNT": restarts, "DDPM_RESTARTS": "3"}
    world.script("trainer", f"exit {code}")
    world.run("sbatch", launch / "slurm.sbatch", "ddpm", "train", code=ends)
    assert requeued(world) is again


def test_a_dry_run_prints_the_step(world, launch, words):
    said = world.run(launch / "slurm.sbatch", "--dry-run", "ddpm", *words).stdout
    assert world.calls() == []
    world.run("bash", "-c", said)
    assert world.argv("ddpm") == [words]


def test_outside_slurm_it_names_the_right_script(world, launch):
    assert "launch/gpu.sh" in world.run(launch / "slurm.sbatch", "ddpm", code=2).stderr
