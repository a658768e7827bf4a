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
from typing import Any

from peer import (
    CLOCKS,
    Arrays,
    Ours,
    Params,
    arguments,
    by_turns,
    clocked,
    describe,
    serve,
    shipped,
    started,
    torch_verbs,
    versions,
)

T, WIDTH, BATCH, POINTS, WHOLE = 100, 128, 128, 10_000, 78_000
PACKAGES = ("torch==2.13.0", "numpy")


# --- the tutorial's side, run by the environment that has torch -----------------------------------


def torch_side() -> None:
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

    serve(
        torch_verbs()
        | {
            "train": clocked(train),
            "sample": clocked(sample),
            "describe": describe(network, torch.randn(256, 2), torch.arange(256) % T),
        }
    )


# --- our side -------------------------------------------------------------------------------------


class SwissRoll(Ours):
    """The config's own training step, fed with the config's own points."""

    def __init__(self):
        super().__init__(shipped("swiss_roll"))
        from ddpm_jax.data import open_source
        from ddpm_jax.data.batches import Batches

        source, size = open_source(self.config.data), self.config.train.batch_size
        self._batches = Batches(source, seed=0, batch_size=size)

    def batch(self, step: int) -> Any:
        return self._batches(step)._replace(labels=None)


def carried(weights: Arrays) -> Params:
    """The tutorial's weights in our network's tree."""

    def linear(name: str) -> Arrays:
        return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}

    params: Params = {"out": linear("out")}
    for i in range(3):
        params[f"layer_{i}"] = linear(f"hidden.{i}.linear")
        params[f"time_{i}"] = {"embedding": weights[f"hidden.{i}.gain.weight"]}
    return params


def main() -> None:
    words = arguments(__doc__, slices=7, steps=2_000)
    options = words.parse_args()
    if options.torch_side:
        torch_side()
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    with started(__file__, options, PACKAGES) as theirs:
        ours = SwissRoll()
        weights, told = theirs.describe_source()
        count = ours.check(carried(weights), told, tolerance=1e-5)
        print(f"{count:,} parameters and the same outputs on both sides")
        print(versions(theirs.ask("about")))
        for name, number in (("train", options.steps), ("sample", POINTS)):
            sides = {
                "ours": clocked(getattr(ours, name)),
                "PyTorch": lambda n, name=name: theirs.ask(name, n),
            }
            medians = by_turns(name, sides, number, options.slices)
            if name == "train":
                for (mine, other), how in zip(medians * WHOLE / number, CLOCKS, strict=True):
                    print(f"  {WHOLE:,} steps, {how}: {mine:.0f} s and {other:.0f} s")


if __name__ == "__main__":
    main()
