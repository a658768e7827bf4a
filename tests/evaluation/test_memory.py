"""What an evaluation holds at once."""

from typing import Any

import numpy as np

from ddpm_jax.data.source import ArraySource
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.metrics import METRICS, coverage
from ddpm_jax.evaluation.sets import ExampleSet


def test_metrics_of_as_many_examples_share_one_array(monkeypatch):
    """Features are large: 10,000 of CIFAR-10's pixels are 123 MB for each that has its own."""
    seen: dict[str, list[Any]] = {}

    def watching(name, most):
        def row():
            def update(state, features, labels):
                seen.setdefault(name, []).append(features.vectors)
                return plain.update(state, features, labels)

            plain = coverage()
            return plain._replace(update=update, most=most, better={})

        monkeypatch.setitem(METRICS, name, row)

    for name, most in {"one": 20, "two": 20, "all": None}.items():
        watching(name, most)
    points = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    points = ExampleSet(ArraySource(points), {})
    evaluate(points, ["one", "two", "all"], reference=points, features="pixels")
    for one, two, every in zip(seen["one"], seen["two"], seen["all"], strict=True):
        assert one is two
        assert (len(one), len(every)) == (20, 50)
