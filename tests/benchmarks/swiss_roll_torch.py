"""`configs/swiss_roll.py` against the 2-D tutorial's own kind of loop in PyTorch, on this machine.

Run by hand from the repository's root, on a machine with nothing else to do:

    python tests/benchmarks/swiss_roll_torch.py [--threads N] [--venv DIR] [--help]

PyTorch is needed for this comparison only: it goes into a virtual environment of its own, made in
DIR (a temporary folder unless named), and runs there as a process that waits while ours works.
First both must be the same network: as many parameters, and the same outputs from PyTorch's
parameters. Then they train by turns, a slice of steps each, and draw 10,000 points by turns; what
is printed are the medians, of the time by the clock and of the processors' time. Other work beside
it lengthens the first, and PyTorch's most: its threads wait for each other at every layer. Then
`--threads 1` is the kinder comparison.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

T, WIDTH, BATCH, POINTS, WHOLE = 100, 128, 128, 10_000, 78_000


def clocked(work: Callable[[int], Any]) -> Callable[[int], list[float]]:
    """Makes a function return its seconds, by the clock and of the processors."""

    def timed(number: int) -> list[float]:
        clock, processors = time.perf_counter(), time.process_time()
        work(number)
        return [time.perf_counter() - clock, time.process_time() - processors]

    return timed


# --- the tutorial's side, run by the environment that has torch -----------------------------------


def torch_side() -> None:
    """Answers each line `WHAT NUMBER` on stdin with one line of JSON on stdout."""
    import torch  # type: ignore[import-not-found]
    from torch import nn  # type: ignore[import-not-found]

    class Scaled(nn.Module):
        def __init__(self, inputs: int):
            super().__init__()
            self.linear, self.gain = nn.Linear(inputs, WIDTH), nn.Embedding(T, WIDTH)
            nn.init.uniform_(self.gain.weight)

        def forward(self, x: Any, t: Any) -> Any:
            return nn.functional.softplus(self.gain(t) * self.linear(x))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.ModuleList([Scaled(inputs) for inputs in (2, WIDTH, WIDTH)])
            self.out = nn.Linear(WIDTH, 2)

        def forward(self, x: Any, t: Any) -> Any:
            for layer in self.hidden:
                x = layer(x, t)
            return self.out(x)

    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    beta = torch.sigmoid(torch.linspace(-6, 6, T)) * (0.02 - 1e-4) + 1e-4
    alpha_bar = torch.cumprod(1 - beta, 0)
    data, order = torch.randn(POINTS, 2), torch.empty(0, dtype=torch.long)

    def batch() -> Any:
        nonlocal order
        if len(order) == 0:
            order = torch.randperm(POINTS)
        rows, order = order[:BATCH], order[BATCH:]
        return data[rows]

    def train(steps: int) -> None:
        for _ in range(steps):
            x = batch()
            t, noise = torch.randint(0, T, (len(x),)), torch.randn_like(x)
            kept = alpha_bar[t][:, None]
            guess = network(kept.sqrt() * x + (1 - kept).sqrt() * noise, t)
            # As in the tutorial, gradients are not cleared, which saves it a little.
            nn.functional.mse_loss(noise, guess).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

    @torch.no_grad()
    def sample(num: int) -> None:
        x = torch.randn(num, 2)
        for t in reversed(range(T)):
            eps = network(x, torch.tensor([t]))
            x = (x - beta[t] / (1 - alpha_bar[t]).sqrt() * eps) / (1 - beta[t]).sqrt()
            if t:
                variance = beta[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
                x = x + variance.sqrt() * torch.randn_like(x)

    @torch.no_grad()
    def describe(num: int) -> dict[str, Any]:
        x, t = torch.randn(num, 2), torch.arange(num) % T
        weights = {name: value.tolist() for name, value in network.state_dict().items()}
        return {
            "version": torch.__version__,
            "threads": torch.get_num_threads(),
            "weights": weights,
            "x": x.tolist(),
            "y": network(x, t).tolist(),
        }

    verbs: dict[str, Callable[[int], Any]] = {
        "train": clocked(train),
        "sample": clocked(sample),
        "threads": torch.set_num_threads,
        "describe": describe,
    }
    for line in sys.stdin:
        what, number = line.split()
        print(json.dumps(verbs[what](int(number))), flush=True)


class Tutorial:
    """The other process: `ask("train", 2000)` gives the seconds of both clocks."""

    def __init__(self, venv: Path):
        python = venv / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        if subprocess.run([python, "-c", "import torch, numpy"], capture_output=True).returncode:
            # A CPU build where pip is set up to find one; else the default build, used on the CPU.
            install = [python, "-m", "pip", "install", "--quiet", "torch==2.13.0", "numpy"]
            subprocess.run(install, check=True)
        words = [python, __file__, "--torch-side"]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str, number: int) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {number}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


# --- our side -------------------------------------------------------------------------------------


class Ours:
    """The config's own training step and chain, fed as the training loop feeds them."""

    def __init__(self, config_path: Path):
        import jax

        from ddpm_jax.config import load_file
        from ddpm_jax.data import open_source
        from ddpm_jax.data.batches import Batches
        from ddpm_jax.experiment import build
        from ddpm_jax.mesh import make_mesh, put_batch
        from ddpm_jax.sampling import SampleProgram
        from ddpm_jax.training.step import jit_init, jit_train_step

        self.config = load_file(config_path)
        self.experiment, mesh = build(self.config), make_mesh(1)
        self._jax, self._step = jax, 0
        self._state = jit_init(self.experiment, mesh)()
        self._train = jit_train_step(self.experiment, mesh)
        self._sample = SampleProgram(self.experiment, mesh, self.config.sample)
        size, each = self.config.train.batch_size, self.config.train.steps_per_dispatch
        batches = Batches(open_source(self.config.data), seed=0, batch_size=size)

        def gather(step: int) -> Any:
            rows = [batches(n)._replace(labels=None) for n in range(step, step + each)]
            return put_batch(jax.tree.map(lambda *x: np.stack(x), *rows), mesh, leading=1)

        self._gather, self._each = gather, each

    def train(self, steps: int) -> None:
        for _ in range(0, steps, self._each):
            self._state, _ = self._train(self._state, self._gather(self._step))
            self._step += self._each
        self._jax.block_until_ready(self._state)

    def sample(self, num: int) -> None:
        self._sample(self._state.ema, num, seed=0)

    def check(self, told: dict[str, Any]) -> int:
        """Raises AssertionError unless both networks are one; returns the parameters' number."""
        weights = {name: np.array(value, np.float32) for name, value in told["weights"].items()}
        params: dict[str, Any] = {"out": _linear(weights, "out")}
        for i in range(3):
            params[f"layer_{i}"] = _linear(weights, f"hidden.{i}.linear")
            params[f"time_{i}"] = {"embedding": weights[f"hidden.{i}.gain.weight"]}
        shapes = self._jax.tree.map(np.shape, self._state.params)
        assert self._jax.tree.map(np.shape, params) == shapes
        x, y = (np.array(told[name], np.float32) for name in ("x", "y"))
        t = np.arange(len(x), dtype=np.int32) % T + 1
        x_t, t = map(self._jax.numpy.asarray, (x, t))
        ours = self.experiment.apply(params, x_t, t, None, train=False)
        np.testing.assert_allclose(ours, y, atol=1e-5)
        return sum(value.size for value in weights.values())


def _linear(weights: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    words.add_argument("--slices", type=int, default=7)
    words.add_argument("--steps", type=int, default=2_000)
    words.add_argument("--threads", type=int, help="of PyTorch; else as many as it chooses")
    words.add_argument("--venv", type=Path)
    options = words.parse_args()
    if options.torch_side:
        torch_side()
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, options.venv or Path(scratch) / "venv")


def compare(options: argparse.Namespace, venv: Path) -> None:
    root = Path(__file__).parents[2]
    sys.path.insert(0, str(root))
    ours, theirs = Ours(root / "configs" / "swiss_roll.py"), Tutorial(venv)
    if options.threads:
        theirs.ask("threads", options.threads)
    told = theirs.ask("describe", 256)
    print(f"{ours.check(told):,} parameters and the same outputs on both sides")
    import jax

    print(f"jax {jax.__version__}, torch {told['version']} with {told['threads']} thread(s)")
    for name, number in (("train", options.steps), ("sample", POINTS)):
        sides = (clocked(getattr(ours, name)), lambda n, name=name: theirs.ask(name, n))
        for side in sides:
            side(number)  # compiles, warms up
        # [slice, side, clock]
        seconds = np.array([[side(number) for side in sides] for _ in range(options.slices)])
        for clock, what in enumerate(("by the clock", "of processors")):
            mine, other = np.median(seconds[:, :, clock], axis=0)
            print(
                f"{name} {number:,}, {what}: ours {mine:.3f} s, PyTorch {other:.3f} s, "
                f"ratio {mine / other:.2f}; slices {np.round(seconds[:, :, clock], 2).tolist()}"
            )
            if name == "train":
                times = WHOLE / number
                print(f"  {WHOLE:,} steps: {mine * times:.0f} s and {other * times:.0f} s")
    theirs.close()


if __name__ == "__main__":
    main()
