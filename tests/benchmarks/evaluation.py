"""The default metrics of several sets of samples, between real data and noise, as a Markdown table.

    python tests/benchmarks/evaluation.py REFERENCE [NAME=SAMPLES ...] [--num N]

REFERENCE is a config or a run with its data; SAMPLES are files of `ddpm sample`. Everything is
compared with one half of the data: the other half, or N of it, and as many samples of each file.
Noise is last.
"""

import argparse
import sys
from typing import Any

import numpy as np

from ddpm_jax.cli.arguments import config_of
from ddpm_jax.data.source import ArraySource, Source
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.metrics.metric import subset
from ddpm_jax.evaluation.sets import ExampleSet, set_of_data
from ddpm_jax.evaluation.stored import open_samples
from ddpm_jax.files import storage_path


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("reference")
    words.add_argument("samples", nargs="*", metavar="NAME=SAMPLES")
    words.add_argument("--num", type=int, help="how many of each (default: all of the other half)")
    given = words.parse_args()
    named, pairs = given.reference, given.samples
    data = set_of_data(config_of(named).data).source
    rng = np.random.default_rng(0)
    parts = np.array_split(rng.permutation(len(data)), 2)
    half, other = (part(data, np.sort(indices), {"half": k}) for k, indices in enumerate(parts))
    num = min(given.num or len(other.source), len(other.source))
    noise = rng.normal(size=(num, *data.shape)).clip(-1, 1).astype(np.float32)
    labels = (np.arange(num) % len(data.class_names)).astype(np.int32)
    other = part(other.source, subset(len(other.source), num), {"half": 1, "num": num})
    rows = [("the other half of the data", other)]
    for pair in pairs:
        name, _, path = pair.partition("=")
        source = open_samples(storage_path(path)).source
        rows.append((name, part(source, subset(len(source), num), {"file": path})))
    rows.append(("noise", ExampleSet(ArraySource(noise, labels, data.class_names), {"noise": 0})))
    for k, (name, samples) in enumerate(rows):
        found = evaluate(samples, reference=half, report=lambda line: print(line, file=sys.stderr))
        if k == 0:
            print("| samples |", " | ".join(found.values), "|")
            print("| --- " * (1 + len(found.values)) + "|")
        print(f"| {name} |", " | ".join(f"{v:.3f}" for v in found.values.values()), "|", flush=True)


def part(source: Source, indices: np.ndarray, described: dict[str, Any]) -> ExampleSet:
    """Some examples of a source, held in memory."""
    found = source.gather(indices)
    labels = np.asarray(found.labels)
    return ExampleSet(
        ArraySource(np.asarray(found.examples), labels, source.class_names), described
    )


if __name__ == "__main__":
    main()
