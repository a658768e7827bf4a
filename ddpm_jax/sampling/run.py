"""A trained run as an object: open its folder, sample from it.

run = ddpm_jax.load("runs/digits")
pictures = run.sample(num=16, seed=0, labels=[3] * 16).samples
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.snapshots import Lengths
from ddpm_jax.config import Config, SampleConfig, override
from ddpm_jax.config.choices import rows_of
from ddpm_jax.data.classes import find_labels
from ddpm_jax.diffusion import SamplerOperator
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.files import StoragePath, storage_path
from ddpm_jax.models.conditioning import NO_CONDITIONING
from ddpm_jax.runtime.distributed import broadcast_from_first, is_alone, is_first
from ddpm_jax.runtime.mesh import all_devices, fitting_mesh, with_shardings
from ddpm_jax.runtime.switches import pinned
from ddpm_jax.sampling.chain import Progress, SampleProgram, Start
from ddpm_jax.sampling.guides import NO_GUIDES, Guides, check_guides, labelled, require_samples
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.sampling.watching import Watch
from ddpm_jax.typing import Conditioning, Denoiser, DenoiserTransform, Operator

_OF_GUIDANCE = ("guidance_method", "guidance_interval", "negative_label")
_MOST_PROGRAMS = 32
"""Compiled programs that a run keeps, of different settings."""


class Run:
    """One checkpoint of a run, on this machine's devices."""

    guides: Guides = NO_GUIDES
    """The runs that guide this one's chains."""
    _guide_params: Guides = NO_GUIDES
    _watch: Watch | None = None

    def __init__(
        self,
        folder: StoragePath,
        step: int,
        experiment: Experiment,
        params: Any,
        *,
        name: str,
        mesh: Mesh,
        report: Callable[[str], None] | None = None,
    ):
        """`name` says which parameters these are: the name of an average, raw, or a length.

        `report` gets a line, once, for each reason why samples can't be like the data; without it
        they are Python's warnings.
        """
        self.folder, self.step, self.mesh = folder, step, mesh
        self.experiment, self.params, self.name = experiment, params, name
        self.report = report or _warn
        self._programs: dict[Any, SampleProgram] = {}
        self._said: set[str] = set()

    def __repr__(self) -> str:
        model, shape = self.config.model.kind, "×".join(map(str, self.config.data.example_shape))
        return f"Run({str(self.folder)!r}, step {self.step}, {self.name}: {model} for {shape})"

    @property
    def config(self) -> Config:
        """The config that the checkpoint was trained with."""
        return self.experiment.config

    @property
    def num_classes(self) -> int:
        """The number of classes that its samples can have; 0 if they have none."""
        return labelled(self.experiment, self.guides.experiments).num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class that its samples can have; empty if there are none, or unknown."""
        known = labelled(self.experiment, self.guides.experiments)
        return known.class_names if known.num_classes else ()

    def labels(self, chosen: Any) -> Any:
        """Returns the labels int32 `[N]` of classes, given by name or number; None for None.

        A name, or a number that is one, means its class: `["cat", 3]`. Raises UserError for a class
        that does not exist.
        """
        # Samples without labels refuse them later.
        if chosen is None or not self.num_classes:
            return chosen
        return find_labels(chosen, self.class_names, self.num_classes)

    def guided(self, weaker: "Run | None" = None, classifier: "Run | None" = None) -> Self:
        """Returns this run with others that guide its chains.

        Guidance, of the weight `sample.guidance`, leads away from a `weaker` run in the place of
        the network without labels: Karras et al. 2024. A `classifier`, a run of the objective
        classification, leads to the class asked for, even where the network takes no labels:
        Dhariwal & Nichol 2021. Raises UserError for runs of other examples, schedules or classes.
        """
        guides = Guides(weaker, classifier)
        check_guides(self.experiment, guides.experiments)
        found = copy.copy(self)
        found.guides, found._programs = guides, {}
        found._guide_params = Guides(*(self._laid_out(guide) for guide in guides))
        return found

    def watched(self, watch: Watch) -> Self:
        """Returns this run, whose chains show `watch` each of their intervals.

        It sees the chains of `sample` and those of every edit; what it raises ends them. No sample
        changes.
        """
        found = copy.copy(self)
        found._watch = watch
        return found

    def _laid_out(self, guide: "Run | None") -> Any:
        """Returns the parameters of a guide over this run's mesh."""
        if guide is None:
            return None
        layouts = with_shardings(jax.eval_shape(lambda: guide.params), self.mesh)
        return jax.tree.map(
            lambda leaf, layout: jax.device_put(leaf, layout.sharding), guide.params, layouts
        )

    def sample(
        self,
        num: int | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        labels: Any = None,
        conditioning: Conditioning = NO_CONDITIONING,
        start: Start | None = None,
        times: Sequence[int] | np.ndarray | None = None,
        transforms: Sequence[DenoiserTransform | Operator | SamplerOperator] = (),
        num_trajectories: int = 0,
        progress: Progress = lambda done, total: None,
        **settings: Any,
    ) -> Samples:
        """Draws samples first … first+num-1 of a seed.

        `settings` replace those of the config's `sample` section, and options of its sampler:
        `run.sample(16, sampler="ddim", eta=0.5, steps=50)`. `conditioning` is what the network
        takes besides labels, an array `[num, …]` each. `labels` has a class for each sample, by
        name or number; an int array, as `Samples.labels` is, holds labels. `start` is where the
        chains start if not from noise. `times` are those of the chain, which may go up and down;
        None for the grid of the settings. `transforms` of the denoiser come after clipping; one
        with data for each sample is an Operator, and one of the sampler a SamplerOperator. The same
        functions share one compiled program.

        Returns float32 samples `[num, …]` on the data's scale ([-1, 1] for pictures), their
        labels, and the trajectories of the first `num_trajectories` samples. Raises UserError for
        settings that do not exist or do not go together, and ValueError for times that are no
        chain.
        """
        labels = self.labels(labels)
        program = self._program(self._with(settings), times, transforms)
        if start is None:
            self._report_once(program.cautions)
        if num is None:
            given = labels if start is None else start.x
            num = program.options.num if given is None else len(np.atleast_1d(given))
        return program(
            self.params,
            num,
            seed=seed,
            first=first,
            labels=labels,
            conditioning=conditioning,
            operands=[getattr(it, "data", None) for it in transforms],
            start=start,
            num_trajectories=num_trajectories,
            guide_params=self._guide_params,
            progress=progress,
            watch=self._watch,
        )

    def times(self, **settings: Any) -> np.ndarray:
        """Returns the times `[steps + 1]` that `sample` follows with these settings."""
        return self._program(self._with(settings), None, ()).times

    def options(self, **settings: Any) -> SampleConfig:
        """Returns the config's `sample` section with these settings, and rows for each `auto`."""
        return self._with(settings).settled(self.experiment.schedule.T)

    def prepare(self, **settings: Any) -> str:
        """Returns a line that describes the chains of `sample`; compiles and draws nothing.

        Raises UserError for settings that `sample` would refuse.
        """
        return self._program(self._with(settings), None, ()).description

    def _with(self, settings: dict[str, Any]) -> SampleConfig:
        """Returns the config's `sample` section with these settings; none may be idle."""
        options = override(self.config.sample, settings)
        own = self.config.sample
        idle = [it for it in _OF_GUIDANCE if getattr(options, it) not in (None, getattr(own, it))]
        if idle and options.guidance == 0 and self.guides.classifier is None:
            raise UserError(
                f"sample.{idle[0]} is given, and sample.guidance is 0, so nothing would be guided; "
                "give a weight too, as --guidance 1"
            )
        return options

    def _program(
        self,
        options: SampleConfig,
        times: Sequence[int] | np.ndarray | None,
        transforms: Sequence[DenoiserTransform | Operator | SamplerOperator],
    ) -> SampleProgram:
        """Returns the program of these options, times and functions; made once."""
        require_samples(str(self.folder), self.experiment)
        chain = None if times is None else np.asarray(times)
        T = self.experiment.schedule.T
        options = options.settled(T, None if chain is None else len(chain) - 1)
        functions = tuple(getattr(it, "apply", it) for it in transforms)
        # With the rows themselves: a notebook may put another one under the same name.
        key = options, rows_of(options), None if chain is None else tuple(chain.tolist()), functions
        program = self._programs.get(key)
        if program is None:
            operators = [
                it
                if isinstance(it, Operator | SamplerOperator)
                else Operator(_ignoring_data(it), None)
                for it in transforms
            ]
            program = SampleProgram(
                self.experiment,
                self.mesh,
                options,
                times=chain,
                operators=operators,
                guides=self.guides.experiments,
            )
            if len(self._programs) >= _MOST_PROGRAMS:
                self._programs.pop(next(iter(self._programs)), None)
            self._programs[key] = program
        return program

    def _report_once(self, lines: Sequence[str]) -> None:
        for line in lines:
            if is_first() and line not in self._said:
                self._said.add(line)
                self.report(line)


def _ignoring_data(transform: DenoiserTransform) -> Callable[[Denoiser, Any], Denoiser]:
    return lambda denoiser, data: transform(denoiser)


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=4)


@pinned()
def load(
    folder: str | StoragePath,
    *,
    checkpoint: int | str | None = None,
    params: str | None = None,
    ema_length: float | None = None,
    local: bool = False,
    report: Callable[[str], None] = _warn,
) -> Run:
    """Opens a run folder: the newest good checkpoint, the step asked for, or the "best".

    It needs nothing but the folder, runs no code out of it, and works with any number of devices.
    `params` names an average, or is "raw"; None takes the first average that training kept.
    `ema_length` makes the average of a relative length from the run's snapshots. With `local`, each
    of several processes works on its own devices, without the others; otherwise they work on all
    devices together. `report` gets a line for each damaged checkpoint that is skipped, and what
    `Run.sample` has to say.
    Raises UserError if the folder holds no checkpoint, if the one asked for is missing or damaged,
    and if it has no such parameters, or no snapshots that give this length.
    """
    folder = storage_path(folder)
    checkpoints = Checkpoints(folder, report=report)
    while True:
        step = broadcast_from_first(lambda: checkpoints.newest_good(checkpoint))
        try:
            return _opened(checkpoints, step, params, ema_length, local=local, report=report)
        except Exception:
            if step is None or step in checkpoints.steps():
                raise
            if checkpoint == step or not is_alone():
                again = "name another, or run the same command again"
                raise UserError(
                    f"checkpoint {step} of {folder} was removed meanwhile; {again}"
                ) from None
            # A run that trains removed it while it was read; there is a newer one.


def _opened(
    checkpoints: Checkpoints,
    step: int | None,
    params: str | None,
    ema_length: float | None,
    *,
    local: bool,
    report: Callable[[str], None],
) -> Run:
    folder = checkpoints.run
    if step is None:
        if folder.is_file():
            raise UserError(f"{folder} is a file; name the folder of a run, such as runs/digits")
        what = "has no checkpoints" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {what}; train first")
    if params is not None and ema_length is not None:
        raise UserError(f"ema_length is {ema_length}; it must be left out with params {params}")
    config = checkpoints.config(step)
    mesh = fitting_mesh(config.mesh.fsdp, all_devices(local=local))
    names = tuple((checkpoints.data(step) or {}).get("classes", ()))
    experiment = replace(build(config, devices=mesh.size), class_names=names)
    params = config.train.first_average if params is None else params
    if params not in (*config.train.averages, "raw"):
        have = ", ".join(config.train.averages)
        raise UserError(f"params is {params!r}; {folder} has {have}, and raw parameters")
    # At step 0 an average is the parameters themselves; an imported run keeps them once.
    name = "params" if params == "raw" or step == 0 else f"ema.{params}"
    shapes = checkpoints.shapes(step, name)
    if shapes is None:
        shapes = experiment.param_shapes
    layout = with_shardings(shapes, mesh)
    if ema_length is None:
        found = checkpoints.restore(step, {name: layout})[name]
    else:
        found = Lengths(checkpoints, step, report=report).rebuild(ema_length, layout)
        params = f"ema_length {ema_length:g}"
    return Run(folder, step, experiment, found, name=params, mesh=mesh, report=report)
