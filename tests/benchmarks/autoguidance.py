"""Autoguidance on points, beside classifier-free guidance: a picture, and two numbers for each.

    python tests/benchmarks/autoguidance.py FOLDER

Trains a network on `branches`, two trees whose every piece is known, and a weaker one: with fewer
features and steps, as Karras et al. 2024 do. Then it draws samples as they are, with
classifier-free guidance, and guided by the weaker run or by an early checkpoint of the same run.
For each it prints

    off       the share of samples farther from their own tree than three standard deviations of
              the data's noise
    missed    the share of the tree, in steps of a fiftieth, without a sample within two standard
              deviations: as many samples as there are data
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import ddpm_jax
from ddpm_jax.config import Config, load_file, override
from ddpm_jax.data.points import branch_segments, branches

SPREAD = 0.02
NUM = 4_000
EARLY, LAST = 2_000, 60_000
WEIGHTS = (1.0, 2.0)


def config(**more: object) -> Config:
    changes = {
        "data.shape": "branches",
        "data.noise": 5 * SPREAD,
        "model.num_classes": 2,
        "train.label_dropout": 0.2,
        "train.steps": LAST,
        "train.save_every": EARLY,
        "train.keep_every": EARLY,
        "train.log_every": EARLY,
        "train.preview_every": None,
        "sample.num": NUM,
    }
    named = {name.replace("__", "."): value for name, value in more.items()}
    return override(load_file("swiss_roll_noise"), changes | named)


def distances(points: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The distance of each point to the nearest of segments `[K, 2 ends, 2]`."""
    start, along = segments[:, 0], segments[:, 1] - segments[:, 0]
    offset = points[:, None] - start
    part = ((offset * along).sum(-1) / (along**2).sum(-1)).clip(0, 1)
    return np.linalg.norm(offset - part[..., None] * along, axis=-1).min(1)


def along(segments: np.ndarray) -> np.ndarray:
    """Points on the segments, a fiftieth apart."""
    parts = [np.linspace(a, b, 1 + int(np.linalg.norm(b - a) * 50)) for a, b in segments]
    return np.concatenate(parts)


def judge(points: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    off, missed = [], []
    for label, tree in enumerate(branch_segments()):
        own = points[labels == label]
        off.append((distances(own, tree) > 3 * SPREAD).mean())
        gaps = np.linalg.norm(along(tree)[:, None] - own, axis=-1).min(1)
        missed.append((gaps > 2 * SPREAD).mean())
    return float(np.mean(off)), float(np.mean(missed))


def main(folder: str) -> None:
    where = Path(folder)
    run = ddpm_jax.train(config(), where / "strong").run
    weak = config(model__width=32, train__steps=10_000)
    weaker = ddpm_jax.train(weak, where / "weak").run
    early = ddpm_jax.load(where / "strong", checkpoint=EARLY)
    data, labels = branches(NUM, 5 * SPREAD, 1)
    drawn = {"data": (data, np.asarray(labels))}

    def draw(name: str, guided: ddpm_jax.Run, **settings: Any) -> None:
        found = guided.sample(NUM, **settings)
        assert found.labels is not None
        drawn[name] = found.samples, found.labels

    draw("no guidance", run)
    draw("the weaker run", weaker)
    for w in WEIGHTS:
        draw(f"classifier-free, w = {w:g}", run, guidance=w)
        draw(f"by the weaker run, w = {w:g}", run.guided(weaker), guidance=w)
        draw(f"by step {EARLY}, w = {w:g}", run.guided(early), guidance=w)
    print("| samples | off | missed |\n| --- | --- | --- |")
    for name, (points, of) in drawn.items():
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in judge(points, of))} |")
    plot(where / "autoguidance.png", drawn)


def plot(path: Path, drawn: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    columns = 3
    rows = -(-len(drawn) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3 * rows), sharex=True)
    for axis, (name, (points, labels)) in zip(axes.flat, drawn.items(), strict=False):
        for a, b in branch_segments().reshape(-1, 2, 2):
            axis.plot(*np.stack([a, b]).T, color="0.8", lw=1, zorder=0)
        axis.scatter(*points.T, s=0.7, c=labels, cmap="coolwarm", lw=0)
        axis.set(title=name, xlim=(-1.8, 1.8), ylim=(-1.2, 1.2))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
