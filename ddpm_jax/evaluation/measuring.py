"""Measurements of a run on real examples: compiled once, in parts that processes share.

Each part leaves its averages in a file of the run's folder. So only one batch is ever held, and
after a kill the same call goes on.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.config import override
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.errors import UserError, require_whole
from ddpm_jax.evaluation.choosing import make_measurement
from ddpm_jax.evaluation.facts import RunFacts
from ddpm_jax.evaluation.metrics.measurement import Averages, Measured, Measurement
from ddpm_jax.evaluation.metrics.metric import LIMIT, subset
from ddpm_jax.evaluation.sets import ExampleSet
from ddpm_jax.files import StoragePath, remove, replacing
from ddpm_jax.runtime import distributed
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.mesh import gather_over, replicated, shard_rows
from ddpm_jax.runtime.random import sample_keys
from ddpm_jax.sampling.chain import Progress
from ddpm_jax.sampling.denoiser import make_denoiser
from ddpm_jax.sampling.guides import require_samples
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.shards import check_draw, describe_samples
from ddpm_jax.tables import Choice
from ddpm_jax.typing import Conditioning, Denoiser


class Plan(NamedTuple):
    """Which measurements are made of which real examples, and how many of them at once."""

    run: Run
    facts: RunFacts
    measurements: dict[Choice, Measurement]
    real: ExampleSet
    num: int
    seed: int
    size: int


def plan_measuring(
    run: Run,
    choices: list[Choice],
    real: ExampleSet,
    *,
    num: int | None,
    seed: int,
    batch_size: int | None,
) -> Plan:
    """Returns what to measure: `num` real examples, by default all, at most 10,000.

    Raises UserError for a measurement that does not apply, for data of another shape or without
    the labels that the network takes, and for a number or a seed out of range.
    """
    experiment, source = run.experiment, real.source
    config, needs = experiment.config, experiment.model.takes
    facts = RunFacts(
        config.data.example_shape,
        experiment.schedule,
        config.diffusion.learned_variance is not None,
        experiment.model.fractional_times,
    )
    name = choices[0].name
    require_samples(f"{name}: {run.folder}", experiment)
    made = {choice: make_measurement(choice, facts) for choice in choices}
    if tuple(source.shape) != tuple(facts.shape):
        have, need = tuple(source.shape), tuple(facts.shape)
        raise UserError(f"{name}: the real examples are {have}, and the run's {need}")
    if experiment.conditioner.recalls:
        why = "what such a network predicts follows from its whole chain, not from x_t alone"
        raise UserError(f"{name}: it has none for diffusion.condition self_conditioning: {why}")
    if needs:
        raise UserError(f"{name}: the network must be given {', '.join(needs)} with each example")
    if experiment.num_classes and not source.class_names and config.train.label_dropout == 0:
        raise UserError(f"{name}: the network takes labels, and the real examples have none")
    if experiment.num_classes and len(source.class_names) > experiment.num_classes:
        raise UserError(
            f"{name}: the real examples have {len(source.class_names)} classes, and the network "
            f"{experiment.num_classes}; give data of these"
        )
    check_draw(LIMIT if num is None else num, seed)
    num = min(len(source), LIMIT if num is None else num)
    if num < 2:
        raise UserError(f"{name}: it needs at least two real examples, for a standard error")
    if batch_size is not None:
        require_whole("batch_size", batch_size)
    size = batch_size or config.sample.batch_size
    # Batches of one size, which the devices share evenly.
    size = math.ceil(num / math.ceil(num / size))
    return Plan(run, facts, made, real, num, seed, math.ceil(size / run.mesh.size) * run.mesh.size)


def measure(plan: Plan, progress: Callable[[str], Progress]) -> tuple[Measured, dict[str, Any]]:
    """Returns what all measurements gave, and what they were made of; all processes call it."""
    about = {
        **describe_samples(plan.run, plan.run.config.sample, plan.num, plan.seed, None),
        "batch_size": plan.size,
    }
    distributed.compare({**about, **distributed.versions()})
    values, arrays = {}, {}
    for choice, measurement in plan.measurements.items():
        metric = [choice.name, dict(choice.options)]
        key = {"run": about, "real": plan.real.described, "metric": metric}
        text = json.dumps({**key, **distributed.versions()}, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        folder = plan.run.folder / f"measurement-{plan.run.step}-{digest}"
        title = f"measuring {choice.name.replace('_', ' ')}"
        found = _all_parts(plan, measurement, folder, progress(title))
        measured = measurement.result(found)
        values |= measured.values
        arrays |= measured.arrays
        distributed.allgather("measured", 1)
        if distributed.is_first():
            remove(folder)
    return Measured(values, arrays), about


def _all_parts(
    plan: Plan, measurement: Measurement, folder: StoragePath, progress: Progress
) -> Averages:
    """Measures the parts that the folder lacks, a share in each process, and joins all of them."""
    starts = list(range(0, plan.num, plan.size))
    files = [folder / f"part-{k:05}.npz" for k in range(len(starts))]

    def missing() -> list[int]:
        folder.mkdir(parents=True, exist_ok=True)
        there = [_read(path) is not None for path in files]
        return [k for k, whole in enumerate(there) if not whole]

    lacking = distributed.broadcast_from_first(missing)
    process, count = distributed.rank_and_count()
    own = lacking[process::count]
    program = _Program(plan, measurement)
    for done, k in enumerate(own):
        found: dict[str, Any] = program(starts[k])
        with replacing(files[k]) as beside, open(beside, "wb") as file:
            np.savez(file, **found)
        progress(done + 1, len(own))
    distributed.allgather("parts", len(own))
    parts = {path: _read(path) for path in files}
    if damaged := [path for path, part in parts.items() if part is None]:
        raise UserError(f"{damaged[0]} can't be read; run the same command again")
    return _joined([part for part in parts.values() if part is not None])


class _Program:
    """One measurement, compiled: from the place of a part's first example to its averages."""

    def __init__(self, plan: Plan, measurement: Measurement):
        run, experiment = plan.run, plan.run.experiment
        self._plan, self._places = plan, subset(len(plan.real.source), plan.num)
        measure = measurement.measure(plan.facts)
        # The model itself: what guidance and clipping make of it is another one.
        plain = override(experiment.config.sample, {"guidance": 0.0, "clipping": "none"})

        def compute(params: Any, examples: Any, labels: Any, places: Any, seed: Any) -> Any:
            params = gather_over(run.mesh, params)

            def network(conditioning: Conditioning) -> Denoiser:
                return make_denoiser(experiment, params, conditioning, plain)

            keys = sample_keys(seed, places, "likelihood")
            return measure(network, to_unit(examples), experiment.condition(labels), keys)

        self._compute = jax.jit(
            compute,
            out_shardings=replicated(run.mesh),
            compiler_options=compiler_options(run.mesh.devices.flat[0]),
        )

    def __call__(self, start: int) -> dict[str, np.ndarray]:
        plan = self._plan
        rows = np.arange(start, start + plan.size)
        # The last part is filled up, so that one program serves all.
        places = self._places[np.minimum(rows, plan.num - 1)]
        batch = plan.real.source.gather(places)
        classes = plan.run.experiment.num_classes
        labels = None
        if classes:
            none = np.full(len(places), classes)
            labels = np.asarray(none if batch.labels is None else batch.labels, np.int32)
        given = (np.asarray(batch.examples), labels, places.astype(np.uint32))
        given = jax.tree.map(lambda each: shard_rows(each, plan.run.mesh), given)
        found = jax.device_get(self._compute(plan.run.params, *given, np.uint32(plan.seed)))
        kept = {
            name: np.asarray(each, np.float64)[: plan.num - start] for name, each in found.items()
        }
        means = {f"mean {name}": each.mean(axis=0) for name, each in kept.items()}
        spread = {
            f"square {name}": ((each - each.mean(axis=0)) ** 2).sum(axis=0)
            for name, each in kept.items()
        }
        return {"size": np.array(min(plan.size, plan.num - start)), **means, **spread}


def _read(path: StoragePath) -> dict[str, np.ndarray] | None:
    """Returns the averages of a part, or None if it is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # A torn file can make the reader raise any error.
        return None


def _joined(parts: list[dict[str, np.ndarray]]) -> Averages:
    """Returns the averages over all parts: Chan et al. 1983, equation 1.5."""
    sizes = np.array([part["size"] for part in parts], np.float64)
    total, mean, error = sizes.sum(), {}, {}
    for name in (key.removeprefix("mean ") for key in parts[0] if key.startswith("mean ")):
        means = np.stack([part[f"mean {name}"] for part in parts])
        weights = sizes.reshape(-1, *[1] * (means.ndim - 1))
        mean[name] = (weights * means).sum(axis=0) / total
        within = sum(part[f"square {name}"] for part in parts)
        squares = within + (weights * (means - mean[name]) ** 2).sum(axis=0)
        error[name] = np.sqrt(squares / (total - 1) / total)
    return Averages(mean, error)
