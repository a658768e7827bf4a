"""Which features and metrics an evaluation takes: those asked for, or all that apply."""

from collections.abc import Sequence
from typing import NamedTuple

from ddpm_jax.config.choices import ChoiceField
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.facts import Facts, RunFacts
from ddpm_jax.evaluation.features import FEATURES
from ddpm_jax.evaluation.metrics import METRICS, Measurement, Metric
from ddpm_jax.tables import Choice

METRICS_FIELD = ChoiceField(
    "metrics", METRICS, "coverage", lambda name, **options: METRICS[name](**options)
)
FEATURES_FIELD = ChoiceField(
    "features", FEATURES, "pixels", lambda name, **options: FEATURES[name](**options)
)


class Judge(NamedTuple):
    """A metric that is to be computed, and the features it is computed of."""

    choice: Choice
    metric: Metric
    features: str


def choose_features(features: str | Choice | None, facts: Facts) -> Choice:
    """Returns the features asked for, or the first ones that apply."""
    if features is not None:
        choice = FEATURES_FIELD.checked(features)
        reason = FEATURES[choice.name](**choice.options).obstacle(facts)
        if reason is not None:
            raise UserError(f"the features {choice.name} do not apply: {reason}")
        return choice
    reasons = {}
    for name in FEATURES:
        choice = FEATURES_FIELD.complete(name)
        row = FEATURES[name](**choice.options)
        if not row.default:
            continue
        reasons[name] = row.obstacle(facts)
        if reasons[name] is None:
            return choice
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise UserError(f"no features apply ({why})")


def choose_metrics(
    metrics: Sequence[str | Choice] | None, facts: Facts, *, by_statistics: bool
) -> list[Judge]:
    """Returns the metrics asked for, or all default ones that apply."""
    wanted = [METRICS_FIELD.checked(each) for each in metrics or METRICS]
    found, reasons = [], {}
    for choice in dict.fromkeys(wanted):
        metric = METRICS[choice.name](**choice.options)
        if isinstance(metric, Measurement):
            if metrics:
                raise UserError(
                    f"the metric {choice.name} does not apply: it measures a run on real examples, "
                    "as in ddpm evaluate RUN"
                )
            continue
        reason = _obstacle(metric, facts, by_statistics)
        if metrics and reason is not None:
            raise UserError(f"the metric {choice.name} does not apply: {reason}")
        if reason is not None:
            reasons[choice.name] = reason
        # Metrics of features that were not chosen are for those who name them.
        elif metrics or (metric.default and _fits(metric, facts)):
            found.append(Judge(choice, metric, metric.features or facts.features))
    if not found:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UserError(f"no metric applies ({why})")
    return found


def split_kinds(
    metrics: Sequence[str | Choice] | None,
) -> tuple[list[Choice] | None, list[Choice]]:
    """Returns the metrics of samples, or None for all that apply, and the measurements of a run."""
    if not metrics:
        return None, []
    kinds: tuple[list[Choice], list[Choice]] = [], []
    for choice in dict.fromkeys(METRICS_FIELD.checked(each) for each in metrics):
        kinds[isinstance(METRICS[choice.name](**choice.options), Measurement)].append(choice)
    return kinds


def make_measurement(choice: Choice, facts: RunFacts) -> Measurement:
    """Returns the measurement of a complete choice; UserError if it does not apply to the run."""
    made = METRICS[choice.name](**choice.options)
    assert isinstance(made, Measurement)
    if reason := made.obstacle(facts):
        raise UserError(f"the metric {choice.name} does not apply: {reason}")
    return made


def _fits(metric: Metric, facts: Facts) -> bool:
    return metric.features in (None, facts.features)


def _obstacle(metric: Metric, facts: Facts, by_statistics: bool) -> str | None:
    if by_statistics and metric.moments is None:
        return "it needs real examples, and there are only their statistics"
    reason = metric.obstacle(facts)
    if reason is None and not _fits(metric, facts):
        assert metric.features is not None
        reason = FEATURES[metric.features]().obstacle(facts)
    return reason
