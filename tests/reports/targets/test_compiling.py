"""The worker's answers as a user meets them. Real compilers are met with --long, if installed."""

import json
import re
import sys

import jax
import pytest

from ddpm_jax.cli import main
from ddpm_jax.config import override
from ddpm_jax.errors import UserError
from ddpm_jax.reports.communication import Collective
from ddpm_jax.reports.targets import compiling, topology, worker
from ddpm_jax.reports.targets.compiling import compile_for
from ddpm_jax.reports.targets.printing import lines
from ddpm_jax.reports.targets.topology import read_target
from tests.tiny import UNET

HALF = {"model.dtype": "bfloat16"}
SMALL = override(UNET, HALF)


@pytest.fixture
def compilers(monkeypatch):
    monkeypatch.setattr(topology, "_compilers", lambda platform: [platform])


@pytest.fixture(scope="module")
def found():
    """The answer of the worker's own function, which compiles for two of this CPU's devices."""
    stages = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topology, "_compilers", lambda platform: [platform])
        patch.setattr(worker, "devices_of", lambda target: jax.devices()[: target.devices])
        said = worker.compile_programs(SMALL, read_target("h100:2"), stages.append)
    assert [stage.split()[0] for stage in stages] == ["tracing", "compiling", "reading"] * 2
    return said


def test_a_step_and_an_interval_of_the_chain_are_compiled(found):
    step, chain = found["training_step"], found["chain_step"]
    assert (found["devices"], step["images_per_device"], chain["images_per_device"]) == (2, 8, 8)
    assert step["fits"]
    assert step["need_bytes"] > step["argument_bytes"] > step["state_bytes"] > 0
    (summed,) = (Collective(**each) for each in step["exchanges"])
    assert (summed.kind, summed.bytes, summed.group) == (
        "all-reduce",
        4 * found["parameters"] + 4,
        2,
    )
    assert chain["exchanges"] == []
    assert chain["steps"] == SMALL.diffusion.timesteps
    # A gradient costs two forward passes.
    assert step["model_flops_per_device"] == 3 * chain["model_flops_per_device"]
    assert "cycles" not in step


def answering(*said):
    """A worker that only prints these lines."""
    text = "\\n".join(json.dumps(each) for each in said)
    return [sys.executable, "-c", f"import sys; print('''{text}'''); sys.stdout.flush()"]


def test_the_answer_is_printed_with_what_fits(found, compilers, monkeypatch, capsys):
    step = {**found["training_step"], "fits": False, "need_bytes": 10**11}
    monkeypatch.setattr(
        compiling, "_WORKER", answering({"stage": "x"}, {"found": {**found, "training_step": step}})
    )
    heard = []
    said = compile_for(SMALL, "h100:2", report=heard.append)
    assert heard == ["x"]
    assert json.loads(json.dumps(said)) == said
    for row in said["what_fits"]:
        assert row["need_bytes"] <= said["memory_bytes"] < step["need_bytes"]
        changed = override(SMALL, row["settings"])
        assert changed != SMALL
    assert {row["change"] for row in said["what_fits"]} >= {"accumulation", "batch"}
    text = "\n".join(lines(said))
    assert "no: 100.00 GB of 80.00 GB" in text
    assert "--train.gradient_accumulation_steps 2" in text
    assert "time                unknown: this compiler estimates none" in text
    small = ["--model.channels", "8", "--model.multipliers", "1", "--model.attention", "8"]
    words = ["info", "configs/digits.py", "--target", "h100:2", *small]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "h100:2"
    assert main(words) == 0
    assert "Training step, 8 images a device" in capsys.readouterr().out


def test_an_estimate_is_labelled_as_the_compilers(found, compilers, monkeypatch):
    estimate = {
        "cycles": 3000,
        "ms": 2.0,
        "images_per_s_and_device": 4000.0,
        "share_of_peak": 0.4,
        "cycles_by_part": {"convolutions": 2000, "normalisation": 1000},
        "not_hidden": {"images_per_s_and_device": 3000.0, "share_of_peak": 0.3},
    }
    gathers = [Collective("all-gather", size, 2, 2)._asdict() for size in (1000, 234)]
    chain = {**found["chain_step"], **estimate}
    step = {**found["training_step"], **estimate, "exchanges": gathers, "exchange_ms": 0.66}
    said = {**found, "chain_step": chain, "training_step": step}
    monkeypatch.setattr(compiling, "_WORKER", answering({"found": said}))
    text = "\n".join(lines(compile_for(SMALL, "h100:2")))
    assert "compiler's estimate 3,000 cycles, 2.00 ms" in text
    assert re.search(r"convolutions +2,000 +66.7%", text)
    assert "20 in 0.0 s (compiler's estimate)" in text
    assert "all-gather of 2,468 bytes in 4 pieces, among 2" in text
    assert "0.66 ms, if the links are busy all the time" in text
    assert "8,000 on all, 40% of the peak, if exchanges are hidden" in text
    assert "6,000 on all, 30% of the peak, if they are not" in text
    assert text.count("40% of the peak\n") == 1  # The chain exchanges nothing.


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"refused": "target is v5e:3x5, which its compiler refuses"},
            "which its compiler refuses",
        ),
        ({"stage": "x"}, "the compiler for v5e:2x2 failed (it gave no reason)"),
    ],
)
def test_a_compiler_that_fails_costs_a_line(said, expected, compilers, monkeypatch):
    monkeypatch.setattr(compiling, "_WORKER", answering(said))
    with pytest.raises(UserError, match=re.escape(expected)):
        compile_for(SMALL, "v5e:2x2")


def test_what_the_devices_can_not_share_is_refused_before_anything_starts(compilers, monkeypatch):
    monkeypatch.setattr(compiling, "_WORKER", ["/no/such/program"])
    with pytest.raises(UserError, match="can't be split over 6 devices"):
        compile_for(SMALL, "h100:6")
    with pytest.raises(UserError, match=r"mesh\.fsdp is 4"):
        compile_for(override(SMALL, {"mesh.fsdp": 4}), "h100:2")


def test_silence_is_broken(compilers, monkeypatch):
    monkeypatch.setattr(compiling, "_EVERY_SECONDS", 0.05)
    slow = 'import time; time.sleep(0.5); print(\'{"refused": "it"}\')'
    monkeypatch.setattr(compiling, "_WORKER", [sys.executable, "-c", slow])
    heard = []
    with pytest.raises(UserError, match="it"):
        compile_for(SMALL, "h100:2", report=heard.append)
    assert heard
    assert all(line.startswith("starting the compiler: ") for line in heard)


def test_devices_and_target_do_not_go_together(capsys):
    assert main(["info", "configs/digits.py", "--target", "h100", "--devices", "2"]) == 2
    assert "leave --devices out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["v5e:2x2", "h100:4"])
def test_a_small_step_by_the_real_compilers(name, request, monkeypatch):
    if not request.config.getoption("--long"):
        pytest.skip("takes minutes; run with --long")
    platform = read_target_platform(name)
    monkeypatch.delenv("XLA_FLAGS")  # Those of the tests leave optimizations out.
    # A batch that is no network's number of channels.
    other = {"train.batch_size": 20, "model.attention": (8,)}
    said = compile_for(override(UNET, HALF | other), name)
    for program in (said["training_step"], said["chain_step"]):
        assert program["fits"]
        assert program["transposed_activations"] == 0
        assert set(program["float32_convolutions"]) <= {"conv_in", "conv_out"}
        assert ("cycles" in program) == (platform == "tpu")
    # One for each type: XLA sums the gradients of bfloat16 products before it widens them.
    assert [each["kind"] for each in said["training_step"]["exchanges"]] in (
        ["all-reduce"],
        ["all-reduce", "all-reduce"],
    )
    assert said["chain_step"]["exchanges"] == []
    if platform == "tpu":
        parts = said["training_step"]["cycles_by_part"]
        assert {"convolutions", "normalisation", "optimizer and averages"} <= parts.keys()


def read_target_platform(name):
    platform = "tpu" if name.startswith("v") else "cuda"
    if not topology._compilers(platform):
        pytest.skip(f"no compiler for {platform} is installed")
    return platform
