"""`ddpm edit`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddpm_jax import config as configs
from ddpm_jax import plots
from ddpm_jax.cli.arguments import built, settings_of, target_of
from ddpm_jax.cli.console import bar, warn
from ddpm_jax.cli.flags import HELP, read
from ddpm_jax.cli.opening import Opening, open_run
from ddpm_jax.cli.sample import flags_of_sampling
from ddpm_jax.config import Setting
from ddpm_jax.config.checks import require_row
from ddpm_jax.data.given import GivenPicture, read_given
from ddpm_jax.errors import UserError
from ddpm_jax.files import StoragePath, storage_path
from ddpm_jax.sampling.edited import write_edited
from ddpm_jax.sampling.editing import EDITS, edit
from ddpm_jax.tables import options_of


@dataclass(frozen=True)
class Options(Opening):
    """Edits a picture with a run, and writes the result and a strip of what was given and made.

    A second picture is a mask (white where to paint) or the other end of an interpolation.
    Settings of sampling that are left out are those of the run's config, or those that the method
    was published with.
    """

    how: str | None = None
    """The way of editing."""
    num: int | None = None
    """Variants; if left out, 1, or 8 of an interpolation."""
    seed: int = 0
    """Variant i depends only on the seed and on i."""
    labels: tuple[str, ...] | None = None
    """Classes that the variants take in turn, by name or number; if left out, no class."""
    output: str | None = None
    """FILE.png, of which FILE-strip.png gets the strip and FILE-2.png, FILE-3.png … more variants;
    or FILE.npz for the numbers. If left out, PICTURE-HOW.png here."""


def _flags() -> list[Setting]:
    own = [*settings_of(Options), *configs.option_settings(EDITS)]
    own = [each._replace(rows=tuple(EDITS)) if each.name == "how" else each for each in own]
    shared = flags_of_sampling({each.name for each in own})
    return [*own, *(each for each in shared if each.name != "num")]


def run(words: list[str]) -> int:
    """Edits one picture and prints where the results are."""
    if words and words[-1] in HELP:
        read("ddpm edit RUN PICTURE [SECOND]", ["--help"], _flags(), _about())
    target, words = target_of(words, "ddpm edit", "RUN")
    prog = f"ddpm edit {target}"
    paths = [*map(storage_path, _leading(words))]
    if not 1 <= len(paths) <= 2:
        raise UserError(f"{prog} needs a PICTURE, or two, next, as in: {prog} cat.png --how vary")
    given = read(prog, words[len(paths) :], _flags())
    own = {each.name for each in settings_of(Options)}
    options = built(Options, {name: value for name, value in given.items() if name in own})
    if options.how is None:
        raise UserError(f"{prog} needs --how, one of {', '.join(EDITS)}")
    require_row("--how", options.how, EDITS)
    settings = {name: v for name, v in given.items() if name not in own}
    output = storage_path(options.output or f"{paths[0].stem}-{options.how}.png")
    plots.check_path(output, ".npz" if output.suffix == ".npz" else ".png")
    if any(path.absolute() == output.absolute() for path in paths):
        raise UserError(f"--output {output} is a picture that is given; name another file")
    picture, second = _read(options.how, paths)
    opened = open_run(target, options)
    channels = opened.config.data.example_shape[-1]
    edited = edit(
        opened,
        options.how,
        _with_channels(picture, channels, options.how),
        second if second is None or second.dtype == bool else _grown(second, channels),
        num=options.num,
        seed=options.seed,
        labels=None if options.labels is None else opened.labels(options.labels),
        progress=bar("editing"),
        **settings,
    )
    files = write_edited(output, edited)
    after = files[0].with_name(f"{files[0].stem}-{len(files)}{files[0].suffix}")
    if after.exists() and output.suffix != ".npz":
        warn(f"{after} is there from an earlier edit, and stays")
    many = "" if len(files) == 2 else f" … {files[-2].name}"
    print(f"{files[0]}{many} and {files[-1]}")
    for name, value in edited.values.items():
        print(f"{name}: {value:.2g}")
    return 0


def _leading(words: Sequence[str]) -> list[str]:
    flags = [i for i, word in enumerate(words) if word.startswith("-")]
    return list(words[: flags[0] if flags else len(words)])


def _read(how: str, paths: Sequence[StoragePath]) -> tuple[GivenPicture, np.ndarray | None]:
    """Returns the picture, and the mask or the second picture as uint8."""
    pictures = [read_given(path) for path in paths]
    for path, found in zip(paths, pictures, strict=True):
        for change in found.changes:
            warn(f"{path} is {change}")
        if found.transparent is not None and (how != "inpaint" or path is not paths[0]):
            raise UserError(f"{path} has transparent pixels; make it opaque")
    first = pictures[0]
    if how != "inpaint":
        if len(paths) == 2 and how != "interpolate":
            raise UserError(f"--how {how} takes one picture; {paths[1]} is a second one")
        return first, pictures[1].pixels if len(paths) == 2 else None
    if len(paths) == 1:
        return first, first.transparent
    if first.transparent is not None:
        raise UserError(f"{paths[0]} has transparent pixels and {paths[1]} is a mask; give one")
    mask = pictures[1].pixels
    if mask.shape[-1] != 1:
        raise UserError(f"the mask {paths[1]} has colours; make it white where to paint, and black")
    return first, mask[..., 0] >= 128


def _with_channels(picture: GivenPicture, channels: int, how: str) -> np.ndarray:
    """Returns the pixels, a grey picture as one of the run's channels unless it gets its colour."""
    return picture.pixels if how == "colourise" else _grown(picture.pixels, channels)


def _grown(pixels: np.ndarray, channels: int) -> np.ndarray:
    # A picture whose colours are all grey is a grey one, and also one in colour.
    grows = pixels.shape[-1] == 1 and channels == 3
    return pixels.repeat(channels, axis=-1) if grows else pixels


def _about() -> str:
    lines = [(Options.__doc__ or "").strip(), ""]
    for name, row in EDITS.items():
        first = (row.__doc__ or "").strip().splitlines()[0]
        flags = " ".join(f"--{option}" for option in options_of(row))
        lines.append(f"{name}: {first} {flags}".rstrip())
    return "\n\n".join(line for line in lines if line)
