"""Images a second of each stage of an evaluation, and the memory of all of them.

    python tests/benchmarks/evaluation_speed.py REFERENCE PICTURES [--inception N]

REFERENCE is a config or a run with labelled data; PICTURES are samples of the same shape, as a
folder of PNGs. Pictures are read twice: decoded, then from the cache. `--inception` also times the
features of N pictures by Inception, with random weights (needs safetensors).
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.cli.arguments import config_of
from ddpm_jax.evaluation.choosing import choose_metrics
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features import FEATURES, Extractor, FeatureContext, Features
from ddpm_jax.evaluation.metrics.metric import subset
from ddpm_jax.evaluation.sets import batches, set_of_data
from ddpm_jax.evaluation.stored import open_samples
from ddpm_jax.files import storage_path


@contextmanager
def timed(stage: str, count: int) -> Iterator[None]:
    began = time.perf_counter()
    yield
    took = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {stage} | {count:,} | {took:.1f} | {count / took:,.0f} | {memory:.2f} |", flush=True)


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("reference")
    words.add_argument("pictures")
    words.add_argument("--inception", type=int, default=0, metavar="N")
    given = words.parse_args()
    print("| stage | images | s | images/s | peak GB so far |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DDPM_JAX_CACHE"] = scratch
        measure(given, Path(scratch))


def measure(given: argparse.Namespace, scratch: Path) -> None:
    data = set_of_data(config_of(given.reference).data).source
    named = storage_path(given.pictures)
    count = sum(1 for _ in named.iterdir())
    with timed("listing, decoding", count):
        read(named)
    with timed("listing, reading the cache", count):
        read(named)
    source = open_samples(named).source
    rows = subset(len(source), 10_000)
    some = np.concatenate([each.examples for each in batches(source, rows, quiet)])
    context = FeatureContext(data, print)
    classifier = FEATURES["classifier"]().load(context)
    found = features("features of the classifier", classifier, some)
    if given.inception:
        features("features of Inception", inception(scratch), some[: given.inception])
    real = np.concatenate(
        [each.examples for each in batches(data, subset(len(data), 10_000), quiet)]
    )
    labels = np.arange(len(some)) % len(data.class_names)
    compare(classifier, found, real, labels)


def read(named: Any) -> None:
    source = open_samples(named).source
    for _ in batches(source, np.arange(len(source)), quiet):
        pass


def quiet(done: int, total: int) -> None:
    del done, total


def features(stage: str, extractor: Extractor, examples: np.ndarray) -> Features:
    extractor.extract(examples[:1])  # Compiles.
    with timed(stage, len(examples)):
        return extractor.extract(examples)


def inception(scratch: Path) -> Extractor:
    import sys

    from safetensors.numpy import save_file  # type: ignore[import-not-found]

    sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation/features/inception"))
    import oracle  # type: ignore[import-not-found]

    save_file(oracle.state_dict(), scratch / "x.safetensors")
    row = FEATURES["inception"](weights=str(scratch / "x.safetensors"))
    return row.load(FeatureContext(None, print))


def compare(extractor: Extractor, found: Features, real: np.ndarray, labels: np.ndarray) -> None:
    shape = real.shape[1:]
    facts = Facts(shape, shape, len(real), len(labels), 10, 10, features="classifier")
    sides = extractor.extract(real), found
    for judge in choose_metrics(None, facts, by_statistics=False):
        with timed(f"metric {judge.choice.name}, both sets", len(labels)):
            states = [judge.metric.update(judge.metric.init(), side, labels) for side in sides]
            judge.metric.result(*states)


if __name__ == "__main__":
    main()
