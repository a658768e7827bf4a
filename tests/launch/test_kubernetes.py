"""The manifests satisfy their schemas, and launch/kubernetes.sh makes runs of them.

The schemas are the Python models of JobSet v1alpha2, batch/v1 and core/v1 that Kubeflow generates
from the APIs' own definitions. A field that they don't know is lost on the way through them, and a
value of another type is refused.
"""

import json
import re

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

START = ["--image", "registry/ddpm:1", "--hosts", "3", "--chips", "2"]


def check(thing):
    """Raises unless a manifest is a valid JobSet; returns its Job and container."""
    model = JobsetV1alpha2JobSet.from_dict(thing)
    assert model is not None
    assert model.to_dict() == thing
    (replicated,) = thing["spec"]["replicatedJobs"]
    assert replicated["name"] == "train"
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    # One process per pod; all start and restart together.
    assert replicated["replicas"] == 1
    assert job["parallelism"] == job["completions"]
    assert job["completionMode"] == "Indexed"
    assert job["backoffLimit"] == 0
    # The API accepts podFailurePolicy only with restartPolicy Never.
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    return job, container


def expand(words, variables):
    """Expands a container's args as Kubernetes does: $(NAME) is a variable, $$ a dollar sign."""

    def one(match):
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return [re.sub(r"\$\$|\$\(([^)]*)\)", one, word) for word in words]


@pytest.mark.parametrize("name", ["tpu", "gpu"])
def test_a_manifest_is_valid(launch, name):
    thing = yaml.safe_load((launch / f"kubernetes/{name}.yaml").read_text())
    assert (thing["apiVersion"], thing["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job, container = check(thing)
    # Exit code 2, a mistake of the user, ends the JobSet; any other code restarts it.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    (answer,) = thing["spec"]["failurePolicy"]["rules"]
    assert answer["action"] == "FailJobSet"
    assert answer["onJobFailureReasons"] == ["PodFailurePolicy"]
    if name == "gpu":
        assert thing["spec"]["coordinator"]["replicatedJob"] == "train"
        args = container["args"]
        assert args[args.index("--distributed.num_processes") + 1] == str(job["parallelism"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "replicatedJobs", 0, "template", "spec", "paralelism"], 2),
        (["spec", "replicatedJobs", 0, "template", "spec", "parallelism"], "two"),
        (["spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "nodeSelctor"], {}),
        (["spec", "failurePolicy", "maxRestart"], 3),
    ],
)
def test_the_check_finds_a_mistake(launch, path, value):
    thing = yaml.safe_load((launch / "kubernetes/gpu.yaml").read_text())
    at = thing
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises((AssertionError, ValueError)):
        check(thing)


def test_start_on_gpus(world, launch, words):
    options = [*START, "--on", "gpu", "--accelerator", "nvidia-l4", "--namespace", "team"]
    world.run(launch / "kubernetes.sh", "start", "r1", *options, "--", "ddpm", "train", *words)
    thing = json.loads((world.folder / "created").read_text())
    job, container = check(thing)
    assert thing["metadata"]["name"] == "r1"
    assert container["image"] == "registry/ddpm:1"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert job["parallelism"] == 3
    node = job["template"]["spec"]["nodeSelector"]
    assert node == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    variables = {"COORDINATOR": "r1-train-0-0.r1", "PROCESS_ID": "2", "X": "wrong"}
    assert expand(container["args"], variables) == [
        *["ddpm", "train", *words, "--distributed.coordinator", "r1-train-0-0.r1:8476"],
        *["--distributed.num_processes", "3", "--distributed.process_id", "2"],
    ]
    assert {it["name"] for it in container["env"]} == {"COORDINATOR", "PROCESS_ID"}
    # The two sides of a pipe start in any order.
    assert ["create", "--filename=-", "--namespace=team"] in world.argv("kubectl")


def test_start_on_tpus(world, launch, words):
    options = [*START, "--on", "tpu", "--topology", "2x4", "--spot", "--service-account", "me"]
    world.run(launch / "kubernetes.sh", "start", "r1", *options, "--", "ddpm", *words)
    job, container = check(json.loads((world.folder / "created").read_text()))
    assert expand(container["args"], {"X": "wrong"}) == ["ddpm", *words]
    assert container["resources"]["limits"] == {"google.com/tpu": 2}
    pod = job["template"]["spec"]
    assert pod["serviceAccountName"] == "me"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "2x4",
        "cloud.google.com/gke-spot": "true",
    }


def test_the_rest_of_a_runs_life(world, launch):
    for action in ("logs", "status", "delete"):
        world.run(launch / "kubernetes.sh", action, "r1", "--context", "c")
    pods = "--selector=jobset.sigs.k8s.io/jobset-name=r1"
    assert world.argv("kubectl") == [
        [
            *["logs", "--follow", "--tail=100"],
            *[f"{pods},batch.kubernetes.io/job-completion-index=0", "--context=c"],
        ],
        ["get", "jobset", "r1", "--context=c"],
        ["get", "pods", pods, "--output=wide", "--context=c"],
        ["delete", "jobset", "r1", "--context=c"],
    ]


def test_a_dry_run_prints_exactly_the_commands(world, launch, words):
    words = ["start", "r1", *START, "--on", "gpu", "--", "ddpm", *words]
    said = world.run(launch / "kubernetes.sh", words[0], "--dry-run", *words[1:]).stdout
    assert world.calls() == []
    world.run("sh", "-c", said)
    printed = (world.folder / "created").read_text()
    world.run(launch / "kubernetes.sh", *words)
    assert (world.folder / "created").read_text() == printed


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["start", "r1", "--image", "i", "--", "ddpm"], "--on tpu or --on gpu"),
        (["start", "r1", "--on", "gpu", "--", "ddpm"], "--image"),
        (["start", "r1", "--on", "gpu", "--image", "i"], "needs -- COMMAND"),
        (["start", "r1", "--hosts", "two"], "whole number"),
        (["start", "R_1"], "the name is"),
        (["start", "a" * 41], "at most 40"),
        (["delete", "r1", "--", "x"], "takes no command"),
    ],
)
def test_a_mistake_is_one_line(world, launch, wrong, said):
    stderr = world.run(launch / "kubernetes.sh", *wrong, code=2).stderr
    assert said in stderr
    assert len(stderr.splitlines()) == 1
    assert world.calls() == []


def test_the_image_holds_what_it_names(launch):
    lines = (launch / "kubernetes/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    kept = (launch / "kubernetes/Dockerfile.dockerignore").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (launch.parent / source).exists()
                assert f"!{source}" in kept
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT ")]
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == (
        ["launch/supervise.sh", "--restarts", "0", "--"]
    )
    extras = re.findall(r"^(\w+) = ", (launch.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert {"cuda", "tpu"} <= set(extras)
