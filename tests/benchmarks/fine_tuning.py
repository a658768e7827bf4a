"""Fine-tuning against training afresh: the loss on held-out digits of four classes, step by step.

    python tests/benchmarks/fine_tuning.py RUN FOLDER [STEPS] [AFRESH]

RUN is a run of configs/mnist.py. FOLDER gets the four classes as arrays and two runs on them, both
with the network and schedule of RUN: STEPS steps from its weights, AFRESH steps without.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

import ddpm_jax
from ddpm_jax.config import ArraysData
from ddpm_jax.data import open_source
from ddpm_jax.training.logging.run_logger import read_rows

CLASSES = (2, 3, 5, 7)
PER_CLASS = 500


def four_classes(run: ddpm_jax.Run, path: Path) -> None:
    """Writes the first pictures of each of CLASSES, with labels 0 to 3."""
    source = open_source(run.config.data)
    found = source.gather(np.arange(min(len(source), 20 * PER_CLASS)))
    rows = [np.flatnonzero(found.labels == each)[:PER_CLASS] for each in CLASSES]
    images = found.examples[np.concatenate(rows)][..., 0]
    np.savez(path, images=images, labels=np.repeat(np.arange(len(CLASSES)), PER_CLASS))


def main(folder: str, out: str, steps: str = "200", afresh: str = "1000") -> None:
    root = Path(out)
    root.mkdir(parents=True, exist_ok=True)
    run = ddpm_jax.load(folder)
    four_classes(run, root / "four.npz")
    config = dataclasses.replace(
        run.config,
        data=ArraysData(path=str(root / "four.npz"), image_size=(28, 28), channels=1),
        model=dataclasses.replace(run.config.model, num_classes=len(CLASSES)),
        optimizer=dataclasses.replace(run.config.optimizer, warmup=20),
        validation=dataclasses.replace(run.config.validation, share=0.2, every=50),
    )
    for name, init, count in (("tuned", folder, int(steps)), ("afresh", None, int(afresh))):
        train = dataclasses.replace(
            config.train, steps=count, log_every=50, save_every=count, preview_every=None
        )
        here = dataclasses.replace(config, init=init, train=train)
        ddpm_jax.train(here, root / name, report=lambda line: print(line, file=sys.stderr))
        print(f"{name}, {count} steps\n\n| step | validation loss |\n| --- | --- |")
        for row in read_rows(root / name / "metrics.jsonl"):
            if "validation_loss" in row:
                print(f"| {row['step']} | {row['validation_loss']:.5f} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
