"""`ddpm train`."""

import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from ddpm_jax import config as configs
from ddpm_jax.cli.arguments import CommandInput, Shared, read_command
from ddpm_jax.cli.plot import Figure, draw, own_figures
from ddpm_jax.errors import UserError
from ddpm_jax.files import StoragePath, storage_path
from ddpm_jax.reports.figures import path_of


@dataclass(frozen=True)
class Options:
    """Trains a config in a folder, and goes on from its newest checkpoint if there is one.

    CONFIG is a config file, the name of a shipped config, or the folder of a run. Several processes
    share the work with the --distributed settings; Slurm and TPU pods set them by themselves.
    """

    workdir: str | None = None
    """Folder of the run; if left out, runs/NAME for NAME.py, or the run that CONFIG names."""
    profile: int | None = None
    """Trace so many steps into the run's folder `profile`, for TensorBoard (xprof) and Perfetto."""
    smoke: bool = False
    """Run the config's smallest version in runs/NAME-smoke, to see that all works."""


def run(words: list[str]) -> int:
    """Trains, draws the config's own figures, and returns the exit code."""
    asked = read_command("ddpm train", "CONFIG", words, Options, more=configs.settings(Shared()))
    figures = own_figures(asked.config)
    workdir = storage_path(asked.options.workdir or _default_workdir(asked))
    from ddpm_jax.runtime.distributed import is_first
    from ddpm_jax.training.logging.progress import TerminalReport
    from ddpm_jax.training.preemption import PreemptionHandler
    from ddpm_jax.training.train import train

    report = TerminalReport()
    with PreemptionHandler(report if is_first() else lambda line: None) as preemption:
        result = train(
            asked.config,
            workdir,
            report=report,
            preemption=preemption,
            profile=asked.options.profile,
        )
    if result.signal == signal.SIGINT:
        return 130
    if result.step >= asked.config.train.steps:
        if result.start == result.step:  # Nothing was trained: what is drawn stays as it is.
            figures = [
                (name, options)
                for name, options in figures
                if not path_of(name, workdir, options.get("output")).is_file()
            ]
        _draw_at_the_end(asked.config, workdir, figures)
    if result.signal is None and is_first():
        draws = not result.run.experiment.classifies
        named = shlex.quote(str(workdir))
        use = f"draw more with: ddpm sample {named}"
        report(f"done; {use if draws else f'guide with: ddpm sample RUN --classifier {named}'}")
    return 0


def _default_workdir(asked: CommandInput) -> str:
    if storage_path(asked.target).is_dir():
        return asked.target
    name = Path(asked.target).stem
    return f"runs/{name}-smoke" if asked.options.smoke else f"runs/{name}"


def _draw_at_the_end(config: configs.Config, run: StoragePath, figures: list[Figure]) -> None:
    """Draws a config's own figures.

    The run is complete without them: a figure that can't be drawn only prints a line.
    """
    import jax

    # Several processes would have to draw together.
    if jax.process_count() > 1:
        return
    for figure in figures:
        try:
            draw(config, run, [figure], report=lambda line: None)  # Training has said it.
        except (OSError, UserError) as error:
            print(f"the figure {figure[0]} was not drawn: {error}", file=sys.stderr)
