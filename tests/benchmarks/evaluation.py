"""The default metrics of several sets of samples, between real data and noise, as a Markdown table.

    python tests/benchmarks/evaluation.py REFERENCE [NAME=SAMPLES ...]

REFERENCE is a config or a run with its data; SAMPLES are files of `ddpm sample`. The ends of
the table are the two halves of the reference, compared with each other, and noise.
"""

import sys

import numpy as np

from ddpm_jax.cli.arguments import config_of
from ddpm_jax.data.source import ArraySource
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.sets import ExampleSet, set_of_data
from ddpm_jax.evaluation.stored import open_samples
from ddpm_jax.files import storage_path


def main(named: str, *pairs: str) -> None:
    reference = set_of_data(config_of(named).data)
    source = reference.source
    rng = np.random.default_rng(0)
    parts = np.array_split(rng.permutation(len(source)), 2)
    halves = [source.gather(np.sort(part)) for part in parts]
    sets = [
        ExampleSet(
            ArraySource(np.asarray(half.examples), np.asarray(half.labels), source.class_names),
            {"half": k},
        )
        for k, half in enumerate(halves)
    ]
    noise = rng.normal(size=(len(source), *source.shape)).clip(-1, 1).astype(np.float32)
    labels = (np.arange(len(noise)) % len(source.class_names)).astype(np.int32)
    rows = [("one half of the data against the other", sets[1], sets[0])]
    for pair in pairs:
        name, _, path = pair.partition("=")
        rows.append((name, open_samples(storage_path(path)), reference))
    made = ExampleSet(ArraySource(noise, labels, source.class_names), {"noise": 0})
    rows.append(("noise", made, reference))
    for k, (name, samples, real) in enumerate(rows):
        found = evaluate(samples, reference=real, report=lambda line: print(line, file=sys.stderr))
        if k == 0:
            print("| samples |", " | ".join(found.values), "|")
            print("| --- " * (1 + len(found.values)) + "|")
        print(f"| {name} |", " | ".join(f"{v:.3f}" for v in found.values.values()), "|", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
