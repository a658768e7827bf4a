"""Starts the process that compiles, says that it lives, and returns what it found."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from ddpm_jax import config as configs
from ddpm_jax.config import Config
from ddpm_jax.data import resolve
from ddpm_jax.errors import UserError
from ddpm_jax.reports.targets.fitting import what_fits
from ddpm_jax.reports.targets.topology import ENVIRONMENT, Target, read_target
from ddpm_jax.runtime.mesh import abstract_mesh
from ddpm_jax.training.step import check_batch

# A line is due after so many seconds of silence: a compiler says nothing of how far it is.
_EVERY_SECONDS = 30
_WORKER = [sys.executable, "-m", "ddpm_jax.reports.targets.worker"]


def compile_for(
    config: Config, target: str, *, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Compiles the training step and a step of the chain for a target, and returns what is said.

    `target` is v5e:2x4 or h100:8, for example. `report` gets a line when something begins, and
    every half minute. Nothing is measured: all figures are the compiler's, or a table's. Raises
    UserError for an unknown target, a compiler that is not installed or that fails, and a batch or
    mesh that the devices can't share.
    """
    chosen = read_target(target)
    config = resolve(config)
    check_batch(config, abstract_mesh(config.mesh.fsdp, chosen.devices))
    begun = time.perf_counter()
    found = _ask({"config": configs.dumps(config), "target": target}, chosen, report)
    step = found["training_step"]
    return {
        "target": target,
        "hardware": {"name": chosen.kind.hardware, "figures": chosen.hardware.said},
        "memory_bytes": chosen.hardware.memory,
        **found,
        "batch_size": config.train.batch_size,
        "dtype": config.model.dtype,
        "what_fits": [] if step["fits"] else what_fits(config, chosen, step.get("need_bytes")),
        "took_s": time.perf_counter() - begun,
    }


def _ask(request: dict[str, Any], target: Target, report: Callable[[str], None]) -> dict[str, Any]:
    """Returns the worker's answer; ends the worker if this process is interrupted."""
    with tempfile.TemporaryFile("w+") as noise:
        worker = subprocess.Popen(
            _WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )
        try:
            assert worker.stdin
            # It stays open: the worker ends when it is closed.
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            last = _last_line(worker, report)
        finally:
            worker.kill()
            worker.communicate()
        if "refused" in last:
            raise UserError(last["refused"])
        if "found" in last:
            return last["found"]
        noise.seek(0)
        said = [line.strip() for line in noise.read().splitlines() if line.strip()]
        reason = next((line for line in reversed(said) if "rror" in line), "it gave no reason")
        raise UserError(
            f"the compiler for {target.name} failed ({reason[:300]}); try another target, or the "
            "versions of jax and its plugin that belong together"
        )


def _last_line(worker: Any, report: Callable[[str], None]) -> dict[str, Any]:
    """Reports the worker's stages, and returns the line after them; {} if it ended without."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in worker.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    stage, since = "starting the compiler", time.monotonic()
    while True:
        try:
            line = lines.get(timeout=_EVERY_SECONDS)
        except queue.Empty:
            report(f"{stage}: {time.monotonic() - since:,.0f} s so far")
            continue
        said = json.loads(line) if line else {}
        if "stage" not in said:
            return said
        stage, since = said["stage"], time.monotonic()
        report(stage)
