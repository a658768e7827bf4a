"""Seconds from a command to the end of its first training step, here and in another commit.

    python tests/benchmarks/first_step.py 61b3142 "digits" "folder --smoke --data.path DIR"

Each time is that of a new process: `cold` with no compiled programs kept, `warm` once they are.
Both trees take turns. The processors' seconds are told too, as a busy machine changes them less,
and the instructions of the optimised step, which no machine changes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from revisions import ROOT, checked_out

# Runs the command as `ddpm` does, and ends the process after its first dispatch.
FIRST = """
import json, os, re, sys, time
begun = time.perf_counter()
from ddpm_jax.runtime.compilation import enable_compilation_cache
enable_compilation_cache()
import jax
from ddpm_jax import cli
from ddpm_jax.training.trainer import Trainer
dispatch = Trainer._dispatch
def first(self, *args):
    jax.block_until_ready(dispatch(self, *args)[0])
    took = {"clock": time.perf_counter() - begun, "processors": time.process_time()}
    program = self._compiled.as_text()
    took["instructions"] = len(re.findall(r"^ +(?:ROOT )?%?\\S+ = ", program, re.M))
    took["fusions"] = len(re.findall(r" fusion\\(", program))
    print(json.dumps(took), flush=True)
    os._exit(0)
Trainer._dispatch = first
sys.exit(cli.main(sys.argv[1:]))
"""


def measured(root: Path, words: list[str], cache: str) -> dict[str, float]:
    """Returns what one process of a tree took."""
    with tempfile.TemporaryDirectory() as run:
        done = subprocess.run(
            [sys.executable, "-c", FIRST, "train", *words, "--workdir", f"{run}/run"],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root), "DDPM_JAX_CACHE": cache},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("revision", help="the other commit")
    words.add_argument("commands", nargs="+", help="what follows `ddpm train`, each as one word")
    words.add_argument("--turns", type=int, default=3)
    options = words.parse_args()
    with checked_out(options.revision) as other:
        for command in options.commands:
            found: dict[tuple[str, str], list[dict[str, float]]] = {}
            for _ in range(options.turns):
                for side, root in (("there", other), ("here", ROOT)):
                    with tempfile.TemporaryDirectory() as cache:
                        for state in ("cold", "warm"):
                            took = measured(root, command.split(), cache)
                            found.setdefault((state, side), []).append(took)
            for state in ("cold", "warm"):
                here, there = found[state, "here"], found[state, "there"]
                for what in here[0]:
                    ours, theirs = (
                        statistics.median(each[what] for each in side) for side in (here, there)
                    )
                    both = f"{ours:,.1f} here, {theirs:,.1f} there, ratio {ours / theirs:.2f}"
                    print(f"{command}, {state}, {what}: {both}", flush=True)


if __name__ == "__main__":
    main()
