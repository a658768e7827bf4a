"""`ddpm data`: prepare a TFDS data set, or look at any data."""

import re
from dataclasses import dataclass

from ddpm_jax import config as configs
from ddpm_jax import plots
from ddpm_jax.cli.arguments import config_of, options_of, settings_of
from ddpm_jax.cli.console import bar, show, warn
from ddpm_jax.cli.flags import HELP, read, split
from ddpm_jax.data.recognition import recognize
from ddpm_jax.errors import UserError
from ddpm_jax.files import storage_path
from ddpm_jax.reports import inspection


@dataclass(frozen=True)
class Prepare:
    """Prepares a TFDS data set; needs the extra: pip install 'ddpm_jax[prepare]'."""

    data_dir: str | None = None
    """Folder to write to; if left out, $TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    from_: str | None = None
    """Folder with the original files, if they are already downloaded."""


@dataclass(frozen=True)
class Info:
    """Reads every example of SOURCE, prints what is there, and draws a grid of examples.

    SOURCE is a folder or a zip of pictures, a .npz or .npy of arrays, the name of a TFDS data set,
    a config file, or a run. Settings of data may be given too, as --data.axes HWC.
    """

    output: str | None = None
    """FILE.png for the grid; if left out, NAME-preview.png here."""
    split: str | None = None
    """The split of a TFDS data set; if left out, train, or the config's."""
    data_dir: str | None = None
    """Where TFDS keeps its data; if left out, $TFDS_DATA_DIR, then ~/tensorflow_datasets."""
    json: bool = False
    """Print JSON instead of a table."""


_WAYS = {"prepare": (Prepare, "NAME"), "info": (Info, "SOURCE")}


def run(words: list[str]) -> int:
    """Prepares or describes data."""
    usages = {
        way: f"ddpm data {way} {what} " + " ".join(f"[--{each.name}]" for each in settings_of(cls))
        for way, (cls, what) in _WAYS.items()
    }
    helps = bool(words) and words[-1] in HELP
    if not words or words[0] not in _WAYS:
        if not helps:
            raise UserError(f"use: {', or: '.join(usages.values())}")
        print("\n".join(usages.values()))
        return 0
    way, *words = words
    cls, what = _WAYS[way]
    if helps:
        about = (cls.__doc__ or "").strip()
        read(f"ddpm data {way} {what}", ["--help"], settings_of(cls), about)
    if not words or words[0].startswith("-"):
        raise UserError(f"use: {usages[way]}")
    prog = f"ddpm data {way} {words[0]}"
    about_data, rest = split(words[1:], lambda name: way == "info" and name.startswith("data."))
    options = options_of(cls, prog, rest)
    if isinstance(options, Prepare):
        return _prepare(words[0], options)
    return _info(words[0], options, about_data, prog)


def _prepare(name: str, options: Prepare) -> int:
    from ddpm_jax.data.tfds import prepare

    prepare(name, options.data_dir, options.from_)
    return 0


def _info(source: str, options: Info, about_data: list[str], prog: str) -> int:
    path = storage_path(source)
    if path.suffix == ".py" or (path / "config.json").is_file():
        data = config_of(source).data
    else:
        data = recognize(source)
    short = {name: getattr(options, name) for name in ("split", "data_dir")}
    for name, value in short.items():
        if value is not None and not hasattr(data, name):
            raise UserError(f"--{name} is of a TFDS data set, and {source} is none; leave it out")
    settings = [each._replace(name=f"data.{each.name}") for each in configs.settings(data)]
    given = {f"data.{name}": value for name, value in short.items() if value is not None}
    given |= read(prog, about_data, settings)
    data = configs.override(data, {name.removeprefix("data."): v for name, v in given.items()})
    stem = re.sub(r"[^\w.-]", "-", path.resolve().stem)
    output = plots.check_path(options.output or f"{stem}-preview.png", ".png")
    found = inspection.inspect(data, bar("reading"))
    plots.grid(output, found.preview, labels=found.labels, names=found.class_names or None)
    show(found.facts if options.json else inspection.summarize(found.facts), options.json)
    warn(f"some of them are in {output}")
    return 0
