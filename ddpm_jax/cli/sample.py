"""`ddpm sample`."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ddpm_jax import config as configs
from ddpm_jax import plots
from ddpm_jax.cli.arguments import Shared, built, settings_of, target_of, with_rows
from ddpm_jax.cli.console import bar
from ddpm_jax.cli.flags import HELP, read
from ddpm_jax.cli.opening import Opening, open_run
from ddpm_jax.config import SampleConfig, Setting
from ddpm_jax.config.checks import require_row
from ddpm_jax.data.classes import describe_labels
from ddpm_jax.errors import UserError
from ddpm_jax.files import StoragePath, storage_path
from ddpm_jax.runtime.distributed import is_first
from ddpm_jax.runtime.memory import OutOfMemory
from ddpm_jax.sampling.files import animation_size, write_samples
from ddpm_jax.sampling.formats import FORMATS
from ddpm_jax.sampling.shards import sample_pixels, sample_shards

_WRITERS = (".png", ".gif", ".npz")


@dataclass(frozen=True)
class Options(Opening):
    """Draws samples from a run. Settings that are left out are those of the run's config."""

    seed: int = 0
    """Sample i depends only on the seed and on i."""
    labels: tuple[str, ...] | None = None
    """Classes that the samples take in turn, by name or number: one, several, or one for each
    sample; without --num, a sample for each that is given. If left out, all classes in turn. If a
    class has a number as its name, numbers mean names."""
    then: tuple[str, ...] = ()
    """Runs that enlarge the samples, one after the other, as configs/digits_upscale.py makes them.
    Settings of sampling, --guide and --classifier are for the last; the others keep their own."""
    then_noise: float | None = None
    """Noise of the pictures that these runs are given, as a share of T; if left out, that of their
    configs."""
    output: str | None = None
    """FILE.png (a grid), FILE.gif (their denoising), FILE.npz, or a folder for many; if left out,
    RUN-seedS.png here. A folder gets numbered files, which several processes share out; after a
    kill the same command adds what is missing."""
    format: str | None = None
    """What a folder or FILE.npz holds: npz for the numbers as they were drawn; png for a folder of
    8-bit pictures, with their labels in dataset.json; arr_0 for 8-bit pictures in arrays, which
    other evaluators read from FILE.npz. If left out, npz."""


def flags() -> list[Setting]:
    """Returns what can be set: the command's own options, and the config's `sample` section."""
    own = settings_of(Options)
    return [*own, *flags_of_sampling({each.name for each in own})]


def flags_of_sampling(taken: Collection[str]) -> list[Setting]:
    """Returns flags for the config's `sample` section beside flags whose names are `taken`.

    An option goes by its own name, --eta, where nothing else has that name.
    """
    section = configs.settings(SampleConfig())
    lasts = Counter(each.name.rpartition(".")[2] for each in section)

    def flag(each: Setting) -> Setting:
        last = each.name.rpartition(".")[2]
        name = last if lasts[last] == 1 and last not in taken else each.name
        return each._replace(name=name, type=each.type | None, default=None, section="")

    return [*map(flag, section)]


def run(words: list[str]) -> int:
    """Draws samples into a file or a folder."""
    about = (Options.__doc__ or "").strip()
    if words and words[-1] in HELP:
        shown = with_rows([*flags(), *configs.settings(Shared())])
        read("ddpm sample RUN", ["--help"], shown, about)
    target, words = target_of(words, "ddpm sample", "RUN")
    given = read(f"ddpm sample {target}", words, flags())
    own = {each.name for each in settings_of(Options)}
    options = built(Options, {name: value for name, value in given.items() if name in own})
    settings = {name: value for name, value in given.items() if name not in own}
    named = f"{storage_path(target).resolve().name}-seed{options.seed}.png"
    output = storage_path(options.output or named)
    if output.suffix not in ("", *_WRITERS):
        known = ", ".join(_WRITERS)
        raise UserError(f"--output {output}: its ending must be one of {known}, or none: a folder")
    if options.format is not None:
        require_row("--format", options.format, FORMATS)
        joins = FORMATS[options.format].joins
        if output.suffix not in ("", ".npz" if joins else ""):
            need = "a folder or a .npz" if joins else "a folder"
            raise UserError(f"--output {output}: with --format {options.format} it must be {need}")
    return _draw(target, output, options, settings)


def _draw(target: str, output: StoragePath, options: Options, settings: dict[str, Any]) -> int:
    to_folder, form = output.suffix == "", options.format or "npz"
    # A .npz of the numbers alone is drawn at once, by all devices together.
    in_parts = to_folder or form != "npz"
    if options.then_noise is not None and not options.then:
        raise UserError("--then_noise needs --then RUN, a run that enlarges the samples")
    stages: dict[str, Any] = {"then": options.then, "then_noise": options.then_noise}
    run = open_run(target, options, local=in_parts, **stages)
    num, labels = settings.pop("num", None), run.labels(options.labels)
    described = run.prepare(**settings)
    if is_first():
        print(described)
    shared = {"seed": options.seed, "labels": labels, "progress": bar("sampling"), **settings}
    if to_folder:
        count = sample_shards(run, output, num, format=form, **shared)
    elif in_parts:
        plots.check_path(output, output.suffix)
        count = sample_pixels(run, output, num, **shared)
    else:
        plots.check_path(output, output.suffix)
        frames = animation_size(run.config.data.example_shape) if output.suffix == ".gif" else 0
        try:
            drawn = run.sample(num, num_trajectories=frames, **shared)
        except OutOfMemory as error:
            raise UserError(f"{error}; --output FOLDER writes them in parts") from None
        count = len(drawn.samples)
        if is_first():
            write_samples(output, drawn)
    if is_first():
        classes = ""
        if labels is not None and run.class_names:
            classes = f": {describe_labels(labels, run.class_names)}"
        print(f"{count} samples of step {run.step} in {output}{classes}")
        shown = configs.describe_shown(run.config.data)
        if shown and (form == "png" or output.suffix in (".png", ".gif")):
            print(shown)
    return 0
