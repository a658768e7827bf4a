"""What the comparisons with PyTorch share: its process, our side, the turns, and the report.

Both environments import this file, so JAX is imported where our side begins, and PyTorch nowhere.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # The package that is measured is the one beside this file.
CLOCKS = ("by the clock", "of processors")
Params = dict[str, Any]
Arrays = dict[str, np.ndarray]


def clocked(work: Callable[[int], Any]) -> Callable[[int], list[float]]:
    """Makes a function return its seconds, by the clock and of the processors."""

    def timed(number: int) -> list[float]:
        clock, processors = time.perf_counter(), time.process_time()
        work(number)
        return [time.perf_counter() - clock, time.process_time() - processors]

    return timed


def arguments(
    doc: str | None, *, slices: int, steps: int, dispatch: int | None = None
) -> argparse.ArgumentParser:
    """The options that every comparison has; the first line of `doc` is what --help begins with.

    `dispatch` is the default of our steps in one call of the compiled program, if one may choose.
    """
    words = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    words.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    words.add_argument(
        "--slices", type=int, default=slices, help="of each side, by turns (default %(default)s)"
    )
    words.add_argument(
        "--steps", type=int, default=steps, help="of training in a slice (default %(default)s)"
    )
    if dispatch:
        words.add_argument(
            "--dispatch",
            type=int,
            default=dispatch,
            help="of our training steps in one call of the program (default %(default)s)",
        )
    words.add_argument("--threads", type=int, help="of PyTorch; else as many as it chooses")
    words.add_argument(
        "--venv", type=Path, metavar="DIR", help="PyTorch's environment; else a temporary one"
    )
    return words


# --- PyTorch's side -------------------------------------------------------------------------------


def serve(verbs: dict[str, Callable[[Any], Any]]) -> None:
    """Answers each line `[WHAT, ARGUMENT]` of JSON on stdin with one line of JSON on stdout."""
    for line in sys.stdin:
        what, argument = json.loads(line)
        print(json.dumps(verbs[what](argument)), flush=True)


def torch_verbs() -> dict[str, Callable[[Any], Any]]:
    """What every PyTorch side is asked: its version and threads, and to take other threads."""
    import torch  # type: ignore[import-not-found]

    def about(_: Any) -> dict[str, Any]:
        return {"version": torch.__version__, "threads": torch.get_num_threads()}

    return {"about": about, "threads": torch.set_num_threads}


def describe(
    network: Any, x: Any, t: Any, call: Callable[..., Any] | None = None
) -> Callable[[str], None]:
    """Makes a function write a network's weights, x, t and its output there to an .npz file."""
    import torch  # type: ignore[import-not-found]

    @torch.no_grad()
    def write(path: str) -> None:
        y = call(network, x, t) if call else network(x, t)
        weights = {
            f"weights/{name}": value.cpu().numpy() for name, value in network.state_dict().items()
        }
        given = {"x": x.cpu().numpy(), "t": t.cpu().numpy(), "y": y.cpu().numpy()}
        np.savez(path, **given, **weights)

    return write


class Peer:
    """The other process, which waits while ours works: `ask("train", 2000)` gives its answer."""

    def __init__(self, script: str, venv: Path, packages: Sequence[str], *words: str):
        python = venv / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        wanted = ", ".join(package.partition("==")[0] for package in packages)
        if subprocess.run([python, "-c", f"import {wanted}"], capture_output=True).returncode:
            # A CPU build where pip is set up to find one; else the default build, used on the CPU.
            install = [python, "-m", "pip", "install", "--quiet", *packages]
            subprocess.run(install, check=True)
        self._process = subprocess.Popen(
            [python, script, "--torch-side", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TQDM_DISABLE": "1"},
        )

    def ask(self, what: str, argument: Any = None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, argument]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"PyTorch's side ended when asked to {what}; its own words are above")
        return json.loads(answer)

    def describe_source(self) -> tuple[Arrays, Arrays]:
        """Returns its network's weights by their names, and x, t and y."""
        with tempfile.TemporaryDirectory() as scratch:
            path = str(Path(scratch) / "network.npz")
            self.ask("describe", path)
            with np.load(path) as file:
                told = dict(file)
        weights = {name[8:]: told.pop(name) for name in list(told) if name.startswith("weights/")}
        return weights, told

    def close(self) -> None:
        self._process.communicate()


@contextlib.contextmanager
def started(
    script: str, options: argparse.Namespace, packages: Sequence[str], *words: str
) -> Iterator[Peer]:
    """Starts the other process in its environment, and ends it."""
    with tempfile.TemporaryDirectory() as scratch:
        peer = Peer(script, options.venv or Path(scratch) / "venv", packages, *words)
        if options.threads:
            peer.ask("threads", options.threads)
        yield peer
        peer.close()


# --- our side -------------------------------------------------------------------------------------


def shipped(name: str) -> Any:
    """Loads a file of configs/."""
    from ddpm_jax.config import load_file

    return load_file(ROOT / "configs" / f"{name}.py")


class _EnoughError(Exception):
    """Ends a chain before its end."""


class Ours:
    """A config's own training step and chain, fed as the training loop feeds them.

    The examples lie in memory, as on the other side: a thousand of noise, unless `batch` is
    overridden.
    """

    def __init__(self, config: Any):
        import jax

        from ddpm_jax.experiment import build
        from ddpm_jax.runtime.mesh import make_mesh
        from ddpm_jax.sampling.chain import SampleProgram
        from ddpm_jax.training.step import draw_state, jit_train_step, step_inputs

        self.config, self.mesh = config, make_mesh(1, jax.devices()[:1])
        self.experiment, self._build = build(config), build
        self._jax, self._inputs, self._step = jax, step_inputs, 0
        self._state = draw_state(self.experiment, self.mesh)
        self._train = jit_train_step(self.experiment, self.mesh)
        self._chain = SampleProgram(self.experiment, self.mesh, config.sample)
        shape = (1_000, *config.data.example_shape)
        self._examples = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    @property
    def params(self) -> Params:
        return self._state.params

    def batch(self, step: int) -> Any:
        """Returns a step's batch, as training gets it."""
        from ddpm_jax.typing import Batch

        size = self.config.train.batch_size
        rows = np.arange(step * size, (step + 1) * size) % len(self._examples)
        return Batch(self._examples[rows], None)

    def _gather(self, step: int) -> Any:
        """Returns the batches of a dispatch, on the device."""
        from ddpm_jax.runtime.mesh import shard_batch

        each = self.config.train.steps_per_dispatch
        rows = [self.batch(n) for n in range(step, step + each)]
        batch = rows[0] if each == 1 else self._jax.tree.map(lambda *x: np.stack(x), *rows)
        return shard_batch(batch, self.mesh, leading=int(each > 1))

    def train(self, steps: int) -> None:
        each = self.config.train.steps_per_dispatch
        assert steps % each == 0, f"{steps} steps are no whole number of dispatches of {each}"
        for _ in range(0, steps, each):
            inputs = self._inputs(self.experiment, self._step)
            self._state, _ = self._train(self._state, self._gather(self._step), inputs)
            self._step += each
        self._jax.block_until_ready(self._state)

    def sample(self, num: int) -> None:
        """Draws that many samples, through the whole chain."""
        self._chain(self._state.ema["ema"], num, seed=0)

    def sample_part(self, steps: int) -> None:
        """Draws a batch through the first steps of the chain, in dispatches of its own length."""

        def progress(done: int, _: int) -> None:
            if done >= steps:
                assert done == steps, f"the chain goes on by {done} steps, not by {steps}"
                raise _EnoughError

        with contextlib.suppress(_EnoughError):
            self._chain(self._state.ema["ema"], self.config.sample.num, seed=0, progress=progress)

    def check(self, params: Params, told: Arrays, *, tolerance: float) -> int:
        """Takes over the other side's parameters; returns their number.

        `told` has x and y, what the other side makes of it at the times t, in PyTorch's layout:
        channels before pixels, and t in 0…T-1. Raises AssertionError unless both networks are one.
        """
        shapes = self._jax.tree.map(np.shape, self._state.params)
        assert self._jax.tree.map(np.shape, params) == shapes
        x, y = (np.moveaxis(told[name], 1, -1) for name in ("x", "y"))
        t = told["t"].astype(np.int32) + 1
        # Both in float32: half precision would hide what differs.
        precise = dataclasses.replace(self.config.model, dtype="float32")
        experiment = self._build(dataclasses.replace(self.config, model=precise))
        apply = self._jax.jit(functools.partial(experiment.apply, train=False))
        np.testing.assert_allclose(apply(params, x, t, None), y, atol=tolerance, rtol=0)
        assert np.std(y) > 100 * tolerance, "outputs are too small to tell networks apart"
        placed = self._jax.tree.map(
            lambda new, old: self._jax.device_put(new, old.sharding), params, self._state.params
        )
        # Copies: the state is donated, so that no two of its leaves may be one buffer.
        copies = (self._jax.tree.map(self._jax.numpy.copy, placed) for _ in range(2))
        self._state = self._state._replace(params=next(copies), ema={"ema": next(copies)})
        return sum(value.size for value in self._jax.tree.leaves(params))


# --- the turns ------------------------------------------------------------------------------------


def by_turns(
    what: str, sides: dict[str, Callable[[int], list[float]]], number: int, slices: int
) -> np.ndarray:
    """Lets each side do `number` of something by turns, and prints medians and their ratio.

    The first side is ours, and the ratio is to the best of the others. Returns the medians,
    [clock, side]: in seconds, by the clock and of the processors.
    """
    # Compiles, warms up.
    first = ", ".join(f"{name} {side(number)[0]:.1f} s" for name, side in sides.items())
    print(f"{what} {number:,}, the first time: {first}", flush=True)
    # [slice, side, clock]
    seconds = np.array([[side(number) for side in sides.values()] for _ in range(slices)])
    medians = np.median(seconds, axis=0).T
    for clock, how in enumerate(CLOCKS):
        told = ", ".join(
            f"{name} {value:.3f} s" for name, value in zip(sides, medians[clock], strict=True)
        )
        ratio = medians[clock, 0] / medians[clock, 1:].min()
        each = np.round(seconds[:, :, clock], 2).tolist()
        print(f"{what} {number:,}, {how}: {told}, ratio {ratio:.2f}; slices {each}", flush=True)
    return medians


def report(seconds: np.ndarray, *, aim: float) -> None:
    """Prints what one step takes, and whether our time by the clock is within `aim` of theirs."""
    each = " and ".join(f"{1e3 * value:.0f} ms" for value in (seconds[0, 0], seconds[0, 1:].min()))
    ratio = seconds[0, 0] / seconds[0, 1:].min()
    print(f"  a step: {each}; aim {aim}: {'met' if ratio <= aim else 'missed'}", flush=True)


def versions(about: dict[str, Any]) -> str:
    """Names what ran."""
    import jax

    return f"jax {jax.__version__}, torch {about['version']} with {about['threads']} thread(s)"
