"""The process that compiles for a target: `python -m ddpm_jax.reports.targets.worker`.

It reads one JSON object, `config` and `target`, and writes JSON objects, one a line: `stage` when
something begins, then `found`, or `refused` for a mistake of the user. Compiling is best done in a
process of its own. The environment must be set before JAX starts, a compiler that fails may end
its process, and one that takes minutes must end with Ctrl-C.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from ddpm_jax import config as configs
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.reports.communication import Collective, collectives, sent
from ddpm_jax.reports.info import forward_flops
from ddpm_jax.reports.program import read_program
from ddpm_jax.reports.targets.cycles import estimate
from ddpm_jax.reports.targets.shows import shown_by
from ddpm_jax.reports.targets.topology import Target, devices_of, read_target
from ddpm_jax.runtime.memory import planned_bytes
from ddpm_jax.runtime.mesh import bytes_per_device, make_mesh, with_shardings
from ddpm_jax.runtime.switches import pinned
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.training.step import jit_train_step, step_layouts


@pinned()
def compile_programs(
    config: Config, target: Target, stage: Callable[[str], None]
) -> dict[str, Any]:
    """Compiles the training step and one step of the chain; returns what the compiler says."""
    mesh = make_mesh(config.mesh.fsdp, devices_of(target))
    experiment = build(config, devices=mesh.size)
    forward = forward_flops(experiment) or 0
    steps = config.train.steps_per_dispatch
    images = config.train.batch_size // mesh.size * steps
    # A gradient costs two forward passes; what remat computes again is no work of the model.
    training = compiled_facts(
        lambda: _training(experiment, mesh),
        target,
        "training step",
        stage,
        params=experiment.param_shapes,
        images=images,
        flops=3 * forward * images,
    )
    state = bytes_per_device(step_layouts(experiment, mesh)[0])
    size = -(-config.sample.batch_size // mesh.size)
    program = SampleProgram(experiment, mesh, config.sample)
    calls = program.calls / (len(program.times) - 1)
    params = with_shardings(experiment.param_shapes, mesh)
    chain = compiled_facts(
        lambda: program.lower(params, size * mesh.size),
        target,
        "step of the chain",
        stage,
        params=params,
        images=size,
        flops=round(calls * forward * size),
    )
    chain["steps"] = len(program.times) - 1
    return {
        "devices": mesh.size,
        "fsdp": mesh.shape["fsdp"],
        "versions": _versions(target),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "training_step": {"steps": steps, "state_bytes": state, **training},
        "chain_step": chain,
    }


def _training(experiment: Experiment, mesh: Mesh) -> Any:
    return jit_train_step(experiment, mesh).lower(*step_layouts(experiment, mesh))


def compiled_facts(
    lower: Callable[[], Any],
    target: Target,
    what: str,
    stage: Callable[[str], None],
    *,
    params: Any,
    images: int,
    flops: int,
) -> dict[str, Any]:
    """Lowers and compiles a program, and returns its sizes, its exchanges and the estimate.

    `params` are those of the network, or their shapes. `images` and `flops` are those of one
    device in a call of the program.
    """
    stage(f"tracing the {what}")
    begun = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter() - begun
    stage(f"compiling the {what} for {target.name}")
    begun = time.perf_counter()
    facts: dict[str, Any] = {"images_per_device": images, "model_flops_per_device": flops}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        took = time.perf_counter() - begun
        return {**facts, "compile_s": took, "fits": False, "compiler_says": _reason(error)}
    took = time.perf_counter() - begun
    stage(f"reading the {what}")
    plan, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    program = read_program(compiled.as_text())
    table = collectives(program)
    exchange = exchange_seconds(table, target)
    code = plan.generated_code_size_in_bytes
    need = (planned_bytes(compiled) or 0) + code
    return {
        **facts,
        "trace_s": traced,
        "compile_s": took,
        "fits": need <= target.hardware.memory,
        "need_bytes": need,
        "argument_bytes": plan.argument_size_in_bytes,
        "temporary_bytes": plan.temp_size_in_bytes,
        "code_bytes": code,
        "instructions": sum(map(len, program.computations.values())),
        "exchanges": [each._asdict() for each in table],
        "sent_bytes": sent(table),
        "exchange_ms": 1e3 * exchange,
        **shown_by(program, images, params),
        **estimate(program, target.hardware, cost, images, flops, exchange),
    }


def exchange_seconds(table: list[Collective], target: Target) -> float:
    """Returns how long the links need for all exchanges, one after the other."""
    devices = target.devices
    # Sums over the data axis of a mesh join devices that are apart; other groups are neighbours.
    return sum(
        target.hardware.seconds(
            each, devices=devices, stride=devices // each.group if each.kind == "all-reduce" else 1
        )
        for each in table
    )


def _reason(error: Exception) -> str:
    """Returns the compiler's line about memory."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Used" in line), lines[0])[:300]


def _versions(target: Target) -> dict[str, str]:
    import importlib.metadata

    names = {"tpu": ("libtpu",), "cuda": ("jax-cuda13-plugin", "jax-cuda12-plugin")}
    found = {"jax": jax.__version__}
    for name in names[target.kind.platform]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it went."""
    sys.stdin.read()
    os._exit(1)


def main() -> int:
    """Answers one request."""
    # Libraries may print; what they print must not get between the lines of the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**line: Any) -> None:
        answer.write(json.dumps(line) + "\n")
        answer.flush()

    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        config = configs.loads(request["config"].encode(), "the request")
        found = compile_programs(
            config, read_target(request["target"]), lambda stage: say(stage=stage)
        )
        say(found=found)
    except UserError as error:
        say(refused=str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
