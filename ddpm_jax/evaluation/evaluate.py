"""Evaluation: one pass over samples, drawn once, and one over real examples serve all metrics.

A measurement needs no samples: see `measuring`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config import DataConfig
from ddpm_jax.data.classes import with_classes
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import measuring, sets
from ddpm_jax.evaluation.caching import read_state, write_state
from ddpm_jax.evaluation.choosing import (
    FEATURES_FIELD,
    Judge,
    choose_features,
    choose_metrics,
    split_kinds,
)
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features import FEATURES, Extractor, FeatureContext, Features
from ddpm_jax.evaluation.metrics.metric import subset
from ddpm_jax.evaluation.sets import Draw, ExampleSet, Statistics
from ddpm_jax.files import remove
from ddpm_jax.runtime import distributed
from ddpm_jax.runtime.switches import pinned
from ddpm_jax.sampling.chain import Progress
from ddpm_jax.sampling.run import Run
from ddpm_jax.tables import Choice
from ddpm_jax.typing import is_image


@dataclass(frozen=True)
class Evaluation:
    """What metrics say of some samples, and all that made these numbers."""

    values: dict[str, float]
    notes: tuple[str, ...]
    """What must be said beside the values."""
    described: dict[str, Any]
    """Samples, reference, features, metrics and versions, as plain values."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """What measurements give besides values, as the terms of a bound."""

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        return f"Evaluation({values})"

    def as_dict(self) -> dict[str, Any]:
        """Returns everything as plain values for JSON."""
        return {"values": self.values, "notes": list(self.notes), **self.described}


class _Comparison(NamedTuple):
    """What is to be compared with the real examples, and how."""

    judges: Sequence[Judge]
    features: Choice
    facts: Facts
    reference: ExampleSet | Statistics
    training: Source | None
    report: Callable[[str], None]
    progress: Callable[[str], Progress]


def evaluate(
    samples: Run | ExampleSet,
    metrics: Sequence[str | Choice] | None = None,
    *,
    reference: DataConfig | ExampleSet | Statistics | None = None,
    features: str | Choice | None = None,
    num: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    training: Source | None = None,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[str], Progress] = lambda title: lambda done, total: None,
) -> Evaluation:
    """Compares samples with real examples; all processes call it, and get the same result.

    `samples` are a run's, drawn here, or stored ones. A run draws `num` samples of a seed, by
    default as many as there are real examples, at most 10,000, with `settings` in place of those of
    its config's `sample`. They are kept in the run's folder until the evaluation ends: after a kill
    the same call goes on. `reference` has the real examples or their statistics; None for a run's
    training data. Features that learn do so from `training`, of the reference's classes; None for
    the real examples. `features` is a row of FEATURES, `metrics` are rows of METRICS; None takes
    those that apply. A measurement among them takes `num` of the real examples, with noise of the
    seed; if all are, nothing is drawn. `report` gets lines, and `progress` is called with a title
    and returns a function of the work done and in all. Raises UserError for what does not exist or
    does not apply, and for data that are missing or of other classes.
    """
    if reference is None:
        if not isinstance(samples, Run):
            raise UserError("there is no reference; name real examples to compare the samples with")
        reference = samples.config.data
    if not isinstance(reference, ExampleSet | Statistics):
        reference = sets.set_of_data(reference)
    reference = _in_classes_of(samples, reference)
    compared, measured = split_kinds(metrics)
    plan = None
    if measured:
        if not isinstance(samples, Run) or not isinstance(reference, ExampleSet):
            raise UserError(f"the metric {measured[0].name} needs a run, and real examples")
        size = (settings or {}).get("batch_size")
        plan = measuring.plan_measuring(
            samples, measured, reference, num=num, seed=seed, batch_size=size
        )
    if plan is not None and compared == []:
        given = {**({} if features is None else {"features": features}), **(settings or {})}
        for name in given.keys() - {"batch_size"}:
            raise UserError(f"{name} is of samples, and {measured[0].name} draws none")
        return _measure(plan, progress)
    found = _draw_and_compare(
        samples,
        compared,
        reference,
        features=features,
        num=num,
        seed=seed,
        settings=dict(settings or {}),
        training=training,
        report=report,
        progress=progress,
    )
    return found if plan is None else _both(found, _measure(plan, progress))


@pinned()
def _measure(plan: measuring.Plan, progress: Callable[[str], Progress]) -> Evaluation:
    (values, arrays), about = measuring.measure(plan, progress)
    described = {
        "samples": {"run": str(plan.run.folder), **about},
        "reference": plan.real.described,
        "features": {},
        "metrics": {each.name: dict(each.options) for each in plan.measurements},
        "versions": distributed.versions(),
    }
    return Evaluation(values, (), described, arrays)


def _both(compared: Evaluation, measured: Evaluation) -> Evaluation:
    metrics = compared.described["metrics"] | measured.described["metrics"]
    return Evaluation(
        compared.values | measured.values,
        compared.notes + measured.notes,
        {**compared.described, "metrics": metrics},
        measured.arrays,
    )


def _draw_and_compare(
    samples: Run | ExampleSet,
    metrics: Sequence[Choice] | None,
    reference: ExampleSet | Statistics,
    *,
    features: str | Choice | None,
    num: int | None,
    seed: int,
    settings: dict[str, Any],
    training: Source | None,
    report: Callable[[str], None],
    progress: Callable[[str], Progress],
) -> Evaluation:
    """Compares samples with the reference, after drawing them if they are a run's."""
    real = reference.source if isinstance(reference, ExampleSet) else None
    plan = None
    if isinstance(samples, Run):
        plan = sets.plan_draw(samples, real, num, seed, settings)
    facts = _facts(samples, plan, reference)
    if len(facts.shape) != len(facts.sample_shape):
        have, need = (
            f"pictures of {'×'.join(map(str, shape))}" if is_image(shape) else "points"
            for shape in (facts.shape, facts.sample_shape)
        )
        raise UserError(f"the real examples are {have}, and the samples are {need}; give such ones")
    if training is not None:
        facts = facts._replace(num_training=len(training))
    chosen = choose_features(features, facts)
    facts = facts._replace(features=chosen.name)
    judges = choose_metrics(metrics, facts, by_statistics=real is None)
    learned = real if training is None else training
    comparison = _Comparison(judges, chosen, facts, reference, learned, report, progress)
    with pinned():
        extractors: dict[str, Extractor] = {}
        # Before hours of sampling: weights may be damaged, and too few examples may have labels.
        distributed.broadcast_from_first(lambda: extractors.update(_load_features(comparison)))
        if not isinstance(samples, Run):
            return _first_compares(comparison, extractors, samples)
        assert plan is not None
        folder = samples.folder / f"evaluation-{sets.digest_of(samples, plan)}"
        drawn = sets.draw(samples, plan, folder, progress("sampling"))
        found = _first_compares(comparison, extractors, drawn)
        if distributed.is_first():
            remove(folder)
        return found


def _first_compares(
    comparison: _Comparison, extractors: Mapping[str, Extractor], samples: ExampleSet
) -> Evaluation:
    """Lets the first process compare the sets, and returns the result on every process."""
    found = distributed.broadcast_from_first(
        lambda: _compare(comparison, extractors, samples).as_dict()
    )
    values, notes = found.pop("values"), tuple(found.pop("notes"))
    return Evaluation(values, notes, found)


def _load_features(comparison: _Comparison) -> dict[str, Extractor]:
    """Returns the extractors that the metrics need, by name."""
    judges, chosen, facts, reference, training, report, _ = comparison
    context = FeatureContext(training, report)
    extractors: dict[str, Extractor] = {}
    for name in dict.fromkeys(each.features for each in judges):
        choice = chosen if name == chosen.name else FEATURES_FIELD.complete(name)
        loaded = FEATURES[name](**choice.options).load(context)
        extractors[name] = loaded._replace(described={**choice.options, **loaded.described})
        if isinstance(reference, Statistics):
            _check_dimensions(reference, extractors[name], facts)
    return extractors


def _check_dimensions(reference: Statistics, extractor: Extractor, facts: Facts) -> None:
    """Raises UserError for statistics of other features."""
    one = extractor.extract(np.zeros((1, *facts.sample_shape), np.float32))
    have, need = len(reference.moments.mean), one.vectors.shape[1]
    if have != need:
        raise UserError(
            f"the reference statistics have {have:,} dimensions, and these features {need:,}; "
            "choose the features they are of"
        )


def _compare(
    comparison: _Comparison, extractors: Mapping[str, Extractor], samples: ExampleSet
) -> Evaluation:
    """Computes the features of both sets and compares them."""
    judges, _, facts, reference, *_, progress = comparison
    of_real = _real_states(judges, reference, extractors, progress("reading the data"))
    of_samples = _states(judges, samples.source, extractors, progress("computing features"))
    values: dict[str, float] = {}
    cautions = []
    for k, judge in enumerate(judges):
        values |= judge.metric.result(of_real[k], of_samples[k])
        cautions.append(judge.metric.caution(facts, of_samples[k]))
        of_real[k] = of_samples[k] = None
    described = {
        "samples": samples.described,
        "reference": reference.described,
        "features": {name: each.described for name, each in extractors.items()},
        "metrics": {each.choice.name: dict(each.choice.options) for each in judges},
        "versions": distributed.versions(),
    }
    return Evaluation(values, tuple(line for line in cautions if line), described)


def _real_states(
    judges: Sequence[Judge],
    reference: ExampleSet | Statistics,
    extractors: Mapping[str, Extractor],
    progress: Progress,
) -> list[Any]:
    """Returns the state of each metric over the real examples; known ones are not computed."""
    if isinstance(reference, Statistics):
        known = reference.moments
        return [each.metric.moments(known) for each in judges if each.metric.moments is not None]
    keys = [
        {
            "data": reference.described,
            "features": [each.features, extractors[each.features].described],
            "metric": [each.choice.name, dict(each.choice.options)],
        }
        for each in judges
    ]
    pairs = zip(keys, judges, strict=True)
    states = [read_state(key, each.metric.init()) for key, each in pairs]
    lacking = [k for k, state in enumerate(states) if state is None]
    if lacking:
        found = _states([judges[k] for k in lacking], reference.source, extractors, progress)
        for k, state in zip(lacking, found, strict=True):
            write_state(keys[k], state)
            states[k] = state
    return states


def _states(
    judges: Sequence[Judge],
    source: Source,
    extractors: Mapping[str, Extractor],
    progress: Progress,
) -> list[Any]:
    """Returns the state of each metric after the examples of a set that it compares."""
    wanted = [subset(len(source), each.metric.most) for each in judges]
    needed = {each.features for each in judges}
    states = [each.metric.init() for each in judges]
    for batch in sets.batches(source, np.unique(np.concatenate(wanted)), progress):
        features = {name: extractors[name].extract(batch.examples) for name in needed}
        # Metrics of as many examples share one array: it is large, and some of them keep it.
        shared: dict[tuple[str, int | None], tuple[Features, np.ndarray | None]] = {}
        for k, judge in enumerate(judges):
            rows, own = np.isin(batch.places, wanted[k]), (judge.features, judge.metric.most)
            if not rows.any():
                continue
            if own not in shared:
                labels = None if batch.labels is None else batch.labels[rows]
                shared[own] = features[judge.features].take(rows), labels
            states[k] = judge.metric.update(states[k], *shared[own])
    return states


def _facts(
    samples: Run | ExampleSet, plan: Draw | None, reference: ExampleSet | Statistics
) -> Facts:
    if isinstance(samples, Run):
        assert plan is not None
        shape, num = tuple(samples.config.data.example_shape), plan.num
        classes = samples.num_classes
    else:
        shape, num = tuple(samples.source.shape), len(samples.source)
        classes = len(samples.source.class_names)
    if isinstance(reference, Statistics):
        return Facts(shape, shape, int(reference.moments.size), num, 0, classes)
    real = reference.source
    return Facts(tuple(real.shape), shape, len(real), num, len(real.class_names), classes)


def _in_classes_of(
    samples: Run | ExampleSet, reference: ExampleSet | Statistics
) -> ExampleSet | Statistics:
    """Returns the reference with its labels counted as those of the samples."""
    if isinstance(reference, Statistics):
        return reference
    names = samples.class_names if isinstance(samples, Run) else samples.source.class_names
    theirs = reference.source.class_names
    if not names or not theirs:
        return reference
    # A file without names has numbers, which count as the reference's do.
    numbered = isinstance(samples, ExampleSet) and names == tuple(map(str, range(len(names))))
    if (
        numbered
        and len(names) <= len(theirs)
        and (theirs[: len(names)] == names or not set(names) <= set(theirs))
    ):
        return reference
    owner = "the run was trained on" if isinstance(samples, Run) else "the samples have"
    source = with_classes(reference.source, names, owner)
    # Labels of kept states count in the order of these classes.
    return ExampleSet(source, {**reference.described, "classes": list(source.class_names)})
