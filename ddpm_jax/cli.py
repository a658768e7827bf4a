"""The `ddpm` command: reads words, calls the library, prints what came of it."""

import atexit
import contextlib
import dataclasses
import gc
import importlib.metadata
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from ddpm_jax.errors import UserError, nearest
from ddpm_jax.files import Remote, StoragePath, storage_path
from ddpm_jax.runtime.compilation import keep_programs
from ddpm_jax.runtime.distributed import Options, find, first, joined

# JAX takes a second to import and tyro a tenth: each command imports what it needs, so that
# `ddpm --help` and a mistyped command answer at once.
if TYPE_CHECKING:
    from ddpm_jax.config import Config

T = TypeVar("T")


# --- reading the command line ---------------------------------------------------------------------


def _parse(cls: type[T], args: Sequence[str], prog: str, default: Any = None) -> T:
    """Reads the options of a dataclass; what tyro refuses becomes one line."""
    import tyro

    _check_names(args, _names(default if default is not None else cls), prog)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(  # type: ignore[return-value]
                cls,
                prog=prog,
                args=list(args),
                default=default,
                use_underscores=True,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"{_one_line(said.getvalue())}; see {prog} --help") from None


def _names(of: Any) -> list[str]:
    from ddpm_jax import config as configs

    if isinstance(of, configs.Config):
        return [name for name in configs.flatten(of) if not name.endswith(".kind")]
    names = []
    for item in dataclasses.fields(of):
        inner = dataclasses.fields(item.default) if dataclasses.is_dataclass(item.default) else ()
        names += [f"{item.name}.{each.name}" for each in inner] or [item.name]
    return names


def _check_names(args: Sequence[str], known: Sequence[str], prog: str) -> None:
    for word in args:
        name = word.removeprefix("--").split("=")[0].replace("-", "_")
        if word.startswith("--") and name not in [*known, "help"]:
            hint = nearest(name, list(known)).replace("mean ", "mean --")
            raise UserError(f"unknown setting --{name}{hint}; see {prog} --help")


def _one_line(boxed: str) -> str:
    """Takes the sentence out of tyro's box, and leaves the help text below its rule.

    On terminals without UTF-8 the box is of hyphens, and a rule stands above the sentence too.
    """
    text: list[str] = []
    for line in boxed.splitlines()[1:]:
        if "──" in line or "---" in line:
            if text:
                break
        elif words := re.sub(r"[│╭╮╰╯─]", "", line).strip():
            text.append(words)
    return " ".join(" ".join(text).split()) or "these options can't be read"


def _target(args: Sequence[str], prog: str, what: str) -> tuple[str, list[str]]:
    if not args or args[0].startswith("-"):
        raise UserError(f"{prog} needs a {what} first, as in: {prog} {_EXAMPLE[what]}")
    return args[0], list(args[1:])


_EXAMPLE = {"CONFIG": "configs/digits.py", "RUN": "runs/digits", "CONFIG|RUN": "configs/digits.py"}


def _config_of(
    target: str, overrides: Sequence[str], prog: str, *, smoke: bool = False
) -> "Config":
    """The config of a config file or of a run folder, with its settings overridden by name."""
    from ddpm_jax import config as configs

    path = storage_path(target)
    if path.is_dir():
        if smoke:
            raise UserError(f"--smoke is for config files, and {path} is a run; leave it out")
        described = path / "config.json"
        if not described.is_file():
            raise UserError(f"{path} has no config.json: it is not the folder of a run")
        config = configs.loads(described.read_text(), str(described))
    elif isinstance(path, Remote):
        raise UserError(f"{path} does not exist; it must be the folder of a run")
    else:
        config = configs.load_file(path, smoke=smoke)
    return _parse(configs.Config, overrides, f"{prog} {target}", default=config)


def _take(args: list[str], option: str) -> tuple[str | None, list[str]]:
    """Takes one option with its value out of the words that tyro reads as settings."""
    for at, word in enumerate(args):
        if word.startswith(f"{option}="):
            return word.split("=", 1)[1], args[:at] + args[at + 1 :]
        if word == option:
            if at + 1 == len(args) or args[at + 1].startswith("--"):
                raise UserError(f"{option} needs a value")
            return args[at + 1], args[:at] + args[at + 2 :]
    return None, args


def _split(args: list[str], prefix: str) -> tuple[list[str], list[str]]:
    """Takes all options that begin so, each with its values, out of the words."""
    taken: list[str] = []
    rest: list[str] = []
    into = rest
    for word in args:
        if word.startswith("--"):
            into = taken if word.startswith(prefix) else rest
        into.append(word)
    return taken, rest


def _bar(title: str) -> Callable[[int, int], None]:
    bars = []

    def progress(done: int, total: int) -> None:
        from tqdm import tqdm

        if not bars:
            hidden = not (first() and sys.stderr.isatty())
            bars.append(tqdm(desc=title, total=total, unit="step", disable=hidden))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    return progress


def _warn(line: str) -> None:
    if first():
        print(f"ddpm: {line}", file=sys.stderr)


# --- the commands ---------------------------------------------------------------------------------


def _train(args: list[str]) -> int:
    from ddpm_jax import config as configs

    if args in (["--help"], ["-h"]):
        print("usage: ddpm train CONFIG [--workdir DIR] [--smoke] [--SETTING VALUE ...]\n")
        print("Trains in DIR (runs/NAME for configs/NAME.py), going on where it stopped;")
        print("--smoke runs the config in seconds (runs/NAME-smoke), to see that all works.")
        print("Several processes share the work: --distributed.coordinator HOST:PORT, where the")
        print(
            "first one is, --distributed.num_processes N, --distributed.process_id I (from 0), and"
        )
        print("--distributed.timeout SECONDS (300) to find each other. Slurm and TPUs tell them.\n")
        _parse(configs.Config, args, "ddpm train CONFIG", default=configs.Config())
    target, rest = _target(args, "ddpm train", "CONFIG")
    workdir, rest = _take(rest, "--workdir")
    smoke = "--smoke" in rest
    overrides = [word for word in rest if word != "--smoke"]
    config = _config_of(target, overrides, "ddpm train", smoke=smoke)
    if workdir is None:
        name = f"{Path(target).stem}-smoke" if smoke else Path(target).stem
        workdir = target if storage_path(target).is_dir() else f"runs/{name}"
    figures = _own_figures(config)
    from ddpm_jax.training.train import train

    code = train(config, workdir)
    if figures and code == 0:
        _draw_at_the_end(config, storage_path(workdir), figures)
    return code


def _draw_at_the_end(config: "Config", run: StoragePath, figures: list[tuple[str, Any]]) -> None:
    """Draws what belongs to a config's run, if all of its steps are done.

    The run is whole without it: a figure that can't be drawn costs a line.
    """
    import jax

    from ddpm_jax.checkpoints.checkpoint import Checkpoints

    # Several processes would have to draw together.
    if jax.process_count() > 1:
        return
    if (Checkpoints(run).newest_good() or 0) < config.train.steps:
        return
    for figure in figures:
        try:
            _draw(config, run, [figure])
        except (OSError, UserError) as error:
            print(f"the figure {figure[0]} was not drawn: {error}", file=sys.stderr)


@dataclass(frozen=True)
class _SampleOptions:
    """Draws samples from a run; what is left out is as the run's config says."""

    num: int | None = None
    """How many samples."""
    seed: int = 0
    """Sample i depends on the seed and on i alone."""
    labels: tuple[int, ...] | None = None
    """A class for each sample; or one class for all; else each class in turn."""
    guidance: float | None = None
    """w of classifier-free guidance."""
    sampler: str | None = None
    """ddpm, ddpm-beta or ddim."""
    steps: int | None = None
    """Steps of the chain, at most T."""
    eta: float | None = None
    """Noise of ddim, from 0 to 1."""
    checkpoint: int | None = None
    """Step of the checkpoint; else the newest good one."""
    params: Literal["ema", "raw"] = "ema"
    """The parameters' moving average, or the parameters themselves."""
    batch_size: int | None = None
    """Samples computed at once."""
    output: str | None = None
    """FILE.png (a grid), .gif (the film of their denoising) or .npz; else RUN-seedS.png here.

    A folder gets numbered .npz files, which several processes share out, and goes on after a kill.
    """


def _sample(args: list[str]) -> int:
    if args in (["--help"], ["-h"]):
        _parse(_SampleOptions, args, "ddpm sample RUN")
    target, rest = _target(args, "ddpm sample", "RUN")
    options = _parse(_SampleOptions, rest, f"ddpm sample {target}")
    named = f"{storage_path(target).resolve().name}-seed{options.seed}.png"
    output = storage_path(options.output or named)
    writers = (".png", ".gif", ".npz")
    sharded = output.suffix == ""
    if not sharded and output.suffix not in writers:
        known = ", ".join(writers)
        raise UserError(f"--output {output}: its ending must be one of {known}, or none: a folder")
    from ddpm_jax import plots
    from ddpm_jax.sampling.files import animation_size, write_samples
    from ddpm_jax.sampling.run import load

    run = load(
        target,
        checkpoint=options.checkpoint,
        params=options.params,
        local=sharded,
        report=_warn,
    )
    labels = options.labels
    if labels is not None and len(labels) == 1 and options.num is not None:
        labels = labels * options.num
    if sharded:
        from ddpm_jax.sampling.shards import sample_shards

        count = sample_shards(
            run,
            output,
            options.num,
            seed=options.seed,
            labels=labels,
            guidance=options.guidance,
            sampler=options.sampler,
            steps=options.steps,
            eta=options.eta,
            batch_size=options.batch_size,
            progress=_bar("sampling"),
        )
        if first():
            print(f"{count} samples of step {run.step} in {output}")
        return 0
    plots.check_path(output, output.suffix)
    drawn = run.sample(
        options.num,
        seed=options.seed,
        labels=labels,
        guidance=options.guidance,
        sampler=options.sampler,
        steps=options.steps,
        eta=options.eta,
        batch_size=options.batch_size,
        num_trajectories=animation_size(run.config.data.example_shape)
        if output.suffix == ".gif"
        else 0,
        progress=_bar("sampling"),
    )
    if first():
        write_samples(output, drawn)
        print(f"{len(drawn.samples)} samples of step {run.step} in {output}")
    return 0


@dataclass(frozen=True)
class _EvaluateOptions:
    """Judges a run's samples against its data, or other data: --data.split test."""

    metrics: tuple[str, ...] | None = None
    """Names of metrics; else all that apply to the data."""
    seed: int = 0
    checkpoint: int | None = None
    params: Literal["ema", "raw"] = "ema"
    json: bool = False
    """Print JSON instead of a table."""


def _evaluate(args: list[str]) -> int:
    if args in (["--help"], ["-h"]):
        _parse(_EvaluateOptions, args, "ddpm evaluate RUN")
    target, rest = _target(args, "ddpm evaluate", "RUN")
    of_data, rest = _split(rest, "--data.")
    options = _parse(_EvaluateOptions, _flag(rest, "--json"), f"ddpm evaluate {target}")
    from ddpm_jax import config as configs
    from ddpm_jax.evaluation.evaluate import evaluate
    from ddpm_jax.sampling.run import load

    run = load(target, checkpoint=options.checkpoint, params=options.params, report=_warn)
    other = _parse(configs.Config, of_data, f"ddpm evaluate {target}", default=run.config)
    values = evaluate(run, options.metrics, data=other.data, seed=options.seed, progress=_bar)
    if first():
        _show(values, options.json)
    return 0


def _info(args: list[str]) -> int:
    if args in (["--help"], ["-h"]):
        print("usage: ddpm info CONFIG|RUN [--devices N] [--json] [--SETTING VALUE ...]\n")
        print("Prints parameters, FLOPs, memory, devices and data set size of a config or run.")
        print("--devices N predicts for so many devices, there or not, what each would hold and")
        print("send, and how efficient TPU v5e, v5p and H100 would be; with all that it assumes.")
        return 0
    target, rest = _target(args, "ddpm info", "CONFIG|RUN")
    devices, rest = _take(rest, "--devices")
    as_json = "--json" in rest
    config = _config_of(target, [word for word in rest if word != "--json"], "ddpm info")
    if devices is None:
        from ddpm_jax.reports.info import describe

        _show(describe(config), as_json)
        return 0
    if not devices.isdecimal():
        raise UserError(f"--devices {devices} is no whole number")
    from ddpm_jax.reports import scaling

    found = scaling.predict(config, int(devices))
    print(json.dumps(found, indent=2) if as_json else "\n".join(scaling.lines(found)))
    return 0


def _bench(args: list[str]) -> int:
    if args in (["--help"], ["-h"]):
        print("usage: ddpm bench CONFIG|RUN [--steps N] [--json] [--SETTING VALUE ...]\n")
        print("Measures compiling, training and sampling on this machine, over five windows of N")
        print("steps (10 unless said), and the share they reach of its fastest matrix product.")
        return 0
    target, rest = _target(args, "ddpm bench", "CONFIG|RUN")
    steps, rest = _take(rest, "--steps")
    as_json = "--json" in rest
    config = _config_of(target, [word for word in rest if word != "--json"], "ddpm bench")
    if steps is not None and not steps.isdecimal():
        raise UserError(f"--steps {steps} is no whole number")
    from ddpm_jax.reports.bench import bench

    _show(bench(config, steps=int(steps or 10), progress=_warn), as_json)
    return 0


@dataclass(frozen=True)
class _PlotOptions:
    """Draws a figure of a run, or of a config's data and schedule."""

    output: str | None = None
    """Where to; else FIGURE.png (or .gif) in the run's folder, or here for a config."""
    seed: int = 0
    num: int | None = None
    """How many samples or examples."""
    columns: int | None = None
    """Columns of the grid of samples."""
    times: int | None = None
    """How many times t, evenly over 0 … T."""
    rows: Literal["examples", "times"] | None = None
    """What each row of a strip is."""
    way: Literal["stepwise", "direct"] | None = None
    """One of the two ways to noise; else both."""
    split: str | None = None
    """Another split of the data set to take examples from, as test."""


def _plot(args: list[str]) -> int:
    from ddpm_jax.reports import figures

    names = "|".join(figures.FIGURES)
    if args[-1:] in (["--help"], ["-h"]):
        print(f"usage: ddpm plot CONFIG|RUN [{names} [OPTIONS]]\n")
        for name, figure in figures.FIGURES.items():
            takes = " ".join(f"--{option}" for option in figures.options_of(name))
            print(f"  {name:<10} {(figure.__doc__ or '').splitlines()[0]} {takes}".rstrip())
        print()
        _parse(_PlotOptions, ["--help"], "ddpm plot CONFIG|RUN FIGURE")
    target, rest = _target(args, "ddpm plot", "CONFIG|RUN")
    config = _config_of(target, (), "ddpm plot")
    wanted = [_figure(rest, f"ddpm plot {target}")] if rest else _own_figures(config)
    if not wanted:
        raise UserError(f"ddpm plot {target} needs a figure, {names}: its config names none")
    folder = storage_path(target)
    _draw(config, folder if folder.is_dir() else None, wanted)
    return 0


def _figure(words: Sequence[str], prog: str) -> tuple[str, dict[str, Any]]:
    """Reads a figure's name and options."""
    from ddpm_jax.reports import figures

    name = words[0] if words else "nothing"
    if name not in figures.FIGURES:
        names, hint = "|".join(figures.FIGURES), nearest(name, list(figures.FIGURES))
        raise UserError(f"{prog} needs a figure, {names}; not {name}{hint}")
    options = vars(_parse(_PlotOptions, words[1:], f"{prog} {name}"))
    given = {option: value for option, value in options.items() if value is not None}
    figures.check(name, given)
    return name, given


def _own_figures(config: "Config") -> list[tuple[str, dict[str, Any]]]:
    return [_figure(words.split(), f'figures: "{words}"') for words in config.figures]


def _draw(
    config: "Config", folder: StoragePath | None, wanted: list[tuple[str, dict[str, Any]]]
) -> None:
    from ddpm_jax.reports import figures

    for name, options in wanted:
        print(figures.draw(name, config, folder, progress=_bar("sampling"), **options))


@dataclass(frozen=True)
class _PrepareOptions:
    """Prepares a TFDS data set; needs the extra: pip install 'ddpm_jax[prepare]'.

    --from DIR takes original files that are already downloaded from DIR.
    """

    data_dir: str | None = None
    """Where to; else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


@dataclass(frozen=True)
class _SurveyOptions:
    """Reads every example of SOURCE and tells what is there, with a grid of examples to look at.

    SOURCE is a folder or a zip of pictures, a .npz or .npy of arrays, the name of a TFDS data set,
    a config, or a run.
    """

    output: str | None = None
    """FILE.png for the grid; else NAME-preview.png here."""
    split: str = "train"
    """The split of a TFDS data set."""
    data_dir: str | None = None
    """Where TFDS keeps its data; else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    json: bool = False
    """Print JSON instead of a table."""


def _data(args: list[str]) -> int:
    ways = {"prepare": _data_prepare, "info": _data_info}
    if args[:1] and args[0] in ways:
        return ways[args[0]](args[1:])
    if args[-1:] in (["--help"], ["-h"]):
        print("\n".join(_DATA_USAGES.values()))
        return 0
    raise UserError(f"use: {', or: '.join(_DATA_USAGES.values())}")


_DATA_USAGES = {
    "prepare": "ddpm data prepare NAME [--data_dir DIR] [--from DIR]",
    "info": "ddpm data info SOURCE [--output FILE.png]",
}


def _data_prepare(args: list[str]) -> int:
    if args[-1:] in (["--help"], ["-h"]):
        _parse(_PrepareOptions, ["--help"], "ddpm data prepare NAME")
    if not args or args[0].startswith("-"):
        raise UserError(f"use: {_DATA_USAGES['prepare']}")
    name = args[0]
    original, rest = _take(args[1:], "--from")
    options = _parse(_PrepareOptions, rest, f"ddpm data prepare {name}")
    from ddpm_jax.data.tfds import prepare

    prepare(name, options.data_dir, original)
    return 0


def _data_info(args: list[str]) -> int:
    if args[-1:] in (["--help"], ["-h"]):
        _parse(_SurveyOptions, ["--help"], "ddpm data info SOURCE")
    if not args or args[0].startswith("-"):
        raise UserError(f"use: {_DATA_USAGES['info']}")
    source = args[0]
    options = _parse(_SurveyOptions, _flag(args[1:], "--json"), f"ddpm data info {source}")
    from ddpm_jax import plots
    from ddpm_jax.reports import inspection as survey

    path = storage_path(source)
    if path.suffix == ".py" or (path / "config.json").is_file():
        data = _config_of(source, (), "ddpm data info").data
    else:
        data = survey.guess(source, options.split, options.data_dir)
    stem = re.sub(r"[^\w.-]", "-", path.resolve().stem)
    output = plots.check_path(options.output or f"{stem}-preview.png", ".png")
    found = survey.survey(data, _bar("reading"))
    names = found.class_names or None
    plots.grid(output, found.preview, labels=found.labels, names=names)
    _show(found.facts if options.json else survey.lines(found.facts), options.json)
    _warn(f"some of them are in {output}")
    return 0


def _flag(args: list[str], option: str) -> list[str]:
    return [part for word in args for part in ([word, "True"] if word == option else [word])]


def _show(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=2))
        return
    width = max(map(len, values))
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        shown = f"{value:.4f}" if isinstance(value, float) else shown
        print(f"{name.replace('_', ' '):<{width}}  {shown}")


class _Command(NamedTuple):
    run: Callable[[list[str]], int]
    usage: str
    help: str
    together: bool = False
    """Whether several processes can share the work."""


COMMANDS = {
    "train": _Command(_train, "CONFIG [--workdir DIR]", "train, or go on where it stopped", True),
    "sample": _Command(_sample, "RUN [--num N]", "draw samples from a run", True),
    "evaluate": _Command(_evaluate, "RUN", "judge a run's samples against its data", True),
    "plot": _Command(
        _plot, "CONFIG|RUN [FIGURE]", "draw a figure; without a name, the config's own"
    ),
    "info": _Command(_info, "CONFIG|RUN [--devices N]", "parameters, FLOPs, memory, data"),
    "bench": _Command(_bench, "CONFIG|RUN [--steps N]", "how fast it runs on this machine"),
    "data": _Command(
        _data, "prepare NAME|info SOURCE", "prepare a TFDS data set; look at any data"
    ),
}


@dataclass(frozen=True)
class _Together:
    distributed: Options = Options()  # noqa: RUF009 (frozen)


def _run_together(command: _Command, args: list[str], prog: str) -> int:
    """Runs a command as one process of several, if it is; all of them end with one exit code."""
    named, rest = _split(args, "--distributed.")
    where = find(_parse(_Together, named, prog).distributed)
    if where is None:
        return command.run(rest)
    with joined(where):
        return command.run(rest)


def _usage() -> str:
    rows = [(f"ddpm {name} {row.usage}", row.help) for name, row in COMMANDS.items()]
    width = max(len(left) for left, _ in rows)
    lines = "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)
    return (
        "Denoising diffusion probabilistic models in JAX.\n\n"
        f"{lines}\n\n"
        "Any setting of a config is overridden by its dotted name: --train.steps 200.\n"
        "ddpm COMMAND --help says more."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 2 for a mistake of the user's, told in one line."""
    if argv is None:  # As a program, whose Python it is.
        # Importing and tracing make objects by the million, and hardly any of them garbage: looking
        # for it took a tenth of the time of a short command, and once more at Python's end.
        gc.set_threshold(10_000, 10, 10)
        atexit.register(gc.freeze)
    try:
        code = _answer(list(sys.argv[1:] if argv is None else argv))
        # Python would write the rest at its end, and complain there of a reader who has left.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # As `head` does. Python would complain at its end once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _answer(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return 0 if args else 2
    if args[0] == "--version":
        print(importlib.metadata.version("ddpm_jax"))
        return 0
    try:
        if args[0] not in COMMANDS:
            known = ", ".join(COMMANDS)
            hint = nearest(args[0], list(COMMANDS))
            raise UserError(f"there is no command {args[0]}{hint}; there are {known}")
        command = COMMANDS[args[0]]
        keep_programs()
        if not command.together or args[-1:] in (["--help"], ["-h"]):
            return command.run(args[1:])
        return _run_together(command, args[1:], f"ddpm {args[0]}")
    except UserError as error:
        # Names of files may hold line breaks, and what they say about them must not.
        print(f"ddpm: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except SystemExit:  # tyro has printed its help.
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
