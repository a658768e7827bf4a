"""Real processes of one command, for the tests that start them."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax

from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.experiment import build
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.training.step import state_layout

ROOT = Path(__file__).parents[3]
LIMIT = 60
"""Seconds after which the others must have ended; starting and compiling may take longer."""


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


CONFIG = """
from ddpm_jax.config import *

def get_config():
    return Config(
        data=PointsData(size=200),
        model=MlpConfig(width=16, layers=2),
        diffusion=DiffusionConfig(timesteps=5),
        train=TrainConfig(
            steps=50, batch_size=24, log_every=25, save_every=25, keep=2, preview_every=25,
        ),
        sample=SampleConfig(clipping="none", num=8, batch_size=8),
    )
"""


STARTED: list[subprocess.Popen] = []
"""Every process that a test started; the test's fixture kills those that still run."""


class Processes:
    """Several processes of one command, each with its own log."""

    def __init__(self, folder: Path, count: int, *command, address=None, also=None, of=None):
        """`also` adds words to single processes; `of` is the stated number of processes."""
        address = address or free_address()
        env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1", PYTHONUNBUFFERED="1")
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        self._logs = [folder / f"{n}.log" for n in range(count)]
        self.all: list[subprocess.Popen] = []
        for n, log in enumerate(self._logs):
            words = [*command, *(also or {}).get(n, ()), "--distributed.coordinator", address]
            words += ["--distributed.num_processes", of or count, "--distributed.process_id", n]
            with log.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, *map(str, words)], env=env, cwd=ROOT, stdout=file, stderr=file
                )
            self.all.append(process)
            STARTED.append(process)

    def log(self, n=0) -> str:
        return self._logs[n].read_text()

    def until(self, condition, limit=180):
        end = time.monotonic() + limit
        while not condition():
            running = [process.poll() is None for process in self.all]
            assert time.monotonic() < end, [self.log(n) for n in range(len(self.all))]
            assert all(running), [self.log(n) for n in range(len(self.all))]
            time.sleep(0.01)

    def codes(self, limit=180) -> list[int]:
        """Waits until all have ended, and returns their exit codes."""
        end = time.monotonic() + limit
        return [process.wait(max(0.1, end - time.monotonic())) for process in self.all]


def train(folder, *words, run="run"):
    return ("-m", "ddpm_jax.cli", "train", folder / "config.py", "--workdir", folder / run, *words)


def state_of(run, devices=1):
    checkpoints = Checkpoints(run)
    step = checkpoints.newest_good()
    assert step is not None
    layout = state_layout(build(checkpoints.config(step)), make_mesh(1, jax.devices()[:devices]))
    return checkpoints.restore(step, layout)
