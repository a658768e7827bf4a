"""`ddpm evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ddpm_jax import config as configs
from ddpm_jax.cli.arguments import Shared, built, settings_of, target_of, with_rows
from ddpm_jax.cli.console import bar, show, warn
from ddpm_jax.cli.flags import HELP, read, split
from ddpm_jax.cli.opening import Opening, open_run
from ddpm_jax.cli.sample import flags_of_sampling
from ddpm_jax.config import DataConfig, Setting
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.features import FEATURES
from ddpm_jax.evaluation.sets import ExampleSet, Statistics
from ddpm_jax.evaluation.stored import find_reference, open_samples
from ddpm_jax.files import replacing, storage_path
from ddpm_jax.runtime.distributed import is_first
from ddpm_jax.sampling.run import Run
from ddpm_jax.tables import Choice


@dataclass(frozen=True)
class Options(Opening):
    """Compares samples with real examples.

    The samples are drawn from RUN, or they are there already: a folder or .npz of ddpm sample, a
    folder or zip of pictures, a .npz with arr_0. Settings of sampling and of the data may be given
    too, as --steps 50 --data.split test. --metrics bits_per_dim takes the likelihood of the real
    examples under RUN, and draws no samples.
    """

    reference: str | None = None
    """Real examples: a data set of TFDS, a folder, a zip, arrays, a config or run with its data, or
    a .npz with their statistics mu and sigma; if left out, a run's training data."""
    metrics: tuple[str, ...] | None = None
    """Names of metrics, each perhaps with options, as "precision_recall --k 5"; if left out, all
    that apply."""
    features: str | None = None
    """What the metrics compare; if left out, a classifier's features of labelled pictures, else the
    pixels."""
    num: int | None = None
    """How many samples to draw, and of how many real examples to take the likelihood; if left out,
    as many as real examples, at most 10,000."""
    seed: int = 0
    """Seed of the samples, and of the likelihood's noise."""
    output: str | None = None
    """FILE.json for the values and all that made them; FILE.npz beside it has a bound's terms."""
    json: bool = False
    """Print JSON instead of a table."""


def run(words: list[str]) -> int:
    """Prints the values of metrics, and writes them if asked to."""
    about, known = (Options.__doc__ or "").strip(), _flags()
    if words and words[-1] in HELP:
        shown = with_rows([*known, *configs.settings(Shared())])
        read("ddpm evaluate RUN|SAMPLES|PICTURES", ["--help"], shown, about)
    target, words = target_of(words, "ddpm evaluate", "RUN")
    prog = f"ddpm evaluate {target}"
    of_data, words = split(words, lambda name: name.startswith("data."))
    given = read(prog, words, known)
    options = built(Options, given)
    output = None if options.output is None else storage_path(options.output)
    if output is not None and output.suffix != ".json":
        raise UserError(f"--output {output}: its ending must be .json")
    samples = _samples(target, options)
    own = {each.name for each in settings_of(Options)} | {each.name for each in _of_features()}
    found = evaluate(
        samples,
        options.metrics or None,
        reference=_reference(samples, options.reference, prog, of_data),
        features=_features(options.features, given),
        num=options.num,
        seed=options.seed,
        settings={name: value for name, value in given.items() if name not in own},
        report=warn,
        progress=bar,
    )
    if is_first():
        show(found.as_dict() if options.json else found.values, options.json)
        for note in () if options.json else found.notes:
            warn(note)
        if output is not None:
            with replacing(output) as beside:
                beside.write_text(json.dumps(found.as_dict(), indent=2) + "\n")
            arrays: dict[str, Any] = found.arrays
            if arrays:
                with replacing(output.with_suffix(".npz")) as beside, open(beside, "wb") as file:
                    np.savez(file, **arrays)
    return 0


def _flags() -> list[Setting]:
    own = settings_of(Options)
    taken = {each.name for each in own}
    drawing = [each for each in flags_of_sampling(taken) if each.name != "num"]
    return [*own, *_of_features(), *drawing]


def _of_features() -> list[Setting]:
    return list(configs.option_settings(FEATURES))


def _samples(target: str, options: Options) -> Run | ExampleSet:
    """Opens the run or the samples that the command names."""
    path = storage_path(target)
    if not (path / "config.json").is_file():
        opening = [item.name for item in fields(Opening) if getattr(options, item.name) is not None]
        if opening:
            raise UserError(f"{target} has samples, and no network; leave out --{opening[0]}")
        return open_samples(path)
    # Each process draws files of its own.
    return open_run(target, options, local=True)


def _reference(
    samples: Run | ExampleSet, named: str | None, prog: str, of_data: Sequence[str]
) -> DataConfig | Statistics:
    """Returns the real examples: those named, or a run's data, with changed settings."""
    if named is None:
        if not isinstance(samples, Run):
            raise UserError(f"{prog} needs --reference with real examples, as --reference cifar10")
        data = samples.config.data
    else:
        drawn = isinstance(samples, Run)
        shape = samples.config.data.example_shape if drawn else samples.source.shape
        data = find_reference(named, tuple(shape))
    if isinstance(data, Statistics):
        if of_data:
            raise UserError(f"--reference {named} has statistics alone; leave out {of_data[0]}")
        return data
    settings = [each._replace(name=f"data.{each.name}") for each in configs.settings(data)]
    given = read(prog, of_data, settings)
    return configs.override(data, {name.removeprefix("data."): it for name, it in given.items()})


def _features(name: str | None, given: dict[str, Any]) -> Choice | None:
    options = {each.name: given[each.name] for each in _of_features() if each.name in given}
    if name is None and options:
        first = next(iter(options))
        raise UserError(f"--{first} is an option of --features; name the features too")
    return None if name is None else Choice(name, **options)
