"""The options by which a command opens a run and what belongs to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ddpm_jax.cli.console import warn
from ddpm_jax.sampling.cascade import Cascade
from ddpm_jax.sampling.run import Run, load


@dataclass(frozen=True)
class Opening:
    checkpoint: int | Literal["best"] | None = None
    """Step of the checkpoint, or best; if left out, the newest good one."""
    params: str | None = None
    """The name of an average of the parameters, or raw; if left out, the first average."""
    ema_length: float | None = None
    """Makes the average of this relative length, as 0.1, from the run's snapshots."""
    guide: str | None = None
    """A weaker run that --guidance leads away from, in the place of the same network without its
    label: RUN, or RUN@STEP for an earlier checkpoint."""
    classifier: str | None = None
    """A run of the objective classification, RUN or RUN@STEP: its gradient leads to the labels."""


def open_run(
    target: str,
    options: Opening,
    *,
    local: bool = False,
    then: Sequence[str] = (),
    then_noise: float | None = None,
) -> Run:
    """Returns the run that the options ask for, with what guides it; UserError as `load` raises.

    The runs `then` enlarge what it draws, as `Cascade` says; then the last one is guided.
    """
    run = load(
        target,
        checkpoint=options.checkpoint,
        params=options.params,
        ema_length=options.ema_length,
        local=local,
        report=warn,
    )
    for stage in then:
        run = Cascade(run, load(stage, local=local, report=warn), noise=then_noise)
    if options.guide is None and options.classifier is None:
        return run
    guides = (options.guide, options.classifier)
    return run.guided(*(None if each is None else _at_step(each, local) for each in guides))


def _at_step(named: str, local: bool) -> Run:
    """Returns the run that RUN or RUN@STEP names."""
    folder, _, step = named.rpartition("@")
    if folder and (step.isdecimal() or step == "best"):
        checkpoint = int(step) if step.isdecimal() else step
        return load(folder, checkpoint=checkpoint, local=local, report=warn)
    return load(named, local=local, report=warn)
