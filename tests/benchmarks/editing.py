"""What editing makes of real pictures of a run's data, as Markdown tables.

    python tests/benchmarks/editing.py RUN [NUM] [FACTOR]

Two tables: how far DDIM's inversion and the way back are from the picture, by their steps; and how
often a classifier of the data gives a picture its label still, after it was shrunk by FACTOR
(else 2) and drawn again, after a half was painted anew, and after it was varied up to t = 0.4 T. No
edit is told the label. A run that enlarges pictures has the rows of shrinking alone, the last one
told, as a cascade is told it.
"""

import sys
import time

import jax.numpy as jnp
import numpy as np

import ddpm_jax
from ddpm_jax.data import open_source
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.evaluation.features import FEATURES
from ddpm_jax.evaluation.features.extractor import FeatureContext
from ddpm_jax.sampling.cascade import enlarges


def main(folder: str, num: int = 256, factor: int = 2) -> None:
    run = ddpm_jax.load(folder)
    source = open_source(run.config.data)
    chosen = source.gather(np.random.default_rng(0).choice(len(source), num, replace=False))
    pictures, labels = np.asarray(to_unit(jnp.asarray(chosen.examples))), np.asarray(chosen.labels)
    print(f"{run}, {num} real pictures")
    if not enlarges(run.experiment):
        invert(run, pictures)
    classifier = FEATURES["classifier"]().load(FeatureContext(source, print))

    def agreement(found: np.ndarray) -> float:
        logits = classifier.extract(found).logits
        assert logits is not None
        return float((logits.argmax(1) == labels).mean())

    height, width, channels = pictures.shape[1:]
    blocks = (num, height // factor, factor, width // factor, factor, channels)
    small = pictures.reshape(blocks).mean((2, 4))
    enlarged = small.repeat(factor, 1).repeat(factor, 2)
    half = np.zeros((height, width), bool)
    half[height // 2 :] = True
    print("\n| pictures | label kept |\n| --- | --- |")
    print(f"| as they are | {agreement(pictures):.3f} |")
    print(f"| shrunk by {factor}, pixels repeated | {agreement(enlarged):.3f} |", flush=True)
    for told in (False, True) if enlarges(run.experiment) else (False,):
        given = labels.astype(np.int32) if told else None
        restored = run.edit("upscale", small, labels=given).samples.samples
        name = f"shrunk by {factor}, upscaled{', the label told' if told else ''}"
        off = restored.reshape(blocks).mean((2, 4)) - small
        print(f"| {name} | {agreement(restored):.3f} |", end=" ", flush=True)
        print(f"(shrunk again: off by {off.std():.1e} RMS, {np.abs(off).max():.1e} at most)")
    if enlarges(run.experiment):
        return
    painted = run.edit("inpaint", pictures, half).samples.samples
    print(f"| lower half painted anew | {agreement(painted):.3f} |", flush=True)
    varied = run.edit("vary", pictures).samples.samples
    print(f"| varied | {agreement(varied):.3f} |")


def invert(run: ddpm_jax.Run, pictures: np.ndarray) -> None:
    T = run.config.diffusion.timesteps
    print("\n| steps each way | mean squared error on [0, 1] |\n| --- | --- |")
    for steps in sorted({10, 20, 50, 100, T}):
        if steps <= T:
            began = time.monotonic()
            values = run.edit("invert", pictures, steps=steps).values
            took = time.monotonic() - began
            print(f"| {steps} | {next(iter(values.values())):.5f} |", f"({took:.0f} s)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
