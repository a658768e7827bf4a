"""A trained run as an object: open its folder, sample from it.

run = ddpm_jax.load("runs/digits")
pictures = run.sample(num=16, seed=0, labels=[3] * 16).samples
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import Config, SampleConfig, override
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.files import StoragePath, storage_path
from ddpm_jax.runtime.distributed import broadcast_from_first
from ddpm_jax.runtime.mesh import fitting_mesh, with_shardings
from ddpm_jax.sampling.chain import SampleProgram, Samples


class Run:
    """One checkpoint of a run, on this machine's devices."""

    def __init__(
        self,
        folder: StoragePath,
        step: int,
        experiment: Experiment,
        params: Any,
        *,
        name: str,
        mesh: Mesh,
    ):
        """`name` says which parameters they are: ema or raw."""
        self.folder, self.step, self.mesh = folder, step, mesh
        self.experiment, self.params, self.name = experiment, params, name
        self._programs: dict[SampleConfig, SampleProgram] = {}

    @property
    def config(self) -> Config:
        """The config that the checkpoint was trained with."""
        return self.experiment.config

    def sample(
        self,
        num: int | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        labels: Sequence[int] | None = None,
        num_trajectories: int = 0,
        progress: Callable[[int, int], None] = lambda done, total: None,
        **settings: Any,
    ) -> Samples:
        """Draws samples first … first+num-1 of a seed.

        `settings` replace those of the config's `sample` section, and options of its sampler:
        `run.sample(16, sampler="ddim", eta=0.5, steps=50)`.

        Returns float32 samples `[num, …]` on the data's scale ([-1, 1] for pictures), their
        labels, and the trajectories of the first `num_trajectories` samples. Raises UserError for
        settings that do not exist or do not go together.
        """
        options = override(self.config.sample, settings)
        if options not in self._programs:
            self._programs[options] = SampleProgram(self.experiment, self.mesh, options)
        if num is None:
            num = options.num if labels is None else len(labels)
        return self._programs[options](
            self.params,
            num,
            seed=seed,
            first=first,
            labels=labels,
            num_trajectories=num_trajectories,
            progress=progress,
        )


def load(
    folder: str | StoragePath,
    *,
    checkpoint: int | None = None,
    params: Literal["ema", "raw"] = "ema",
    here: bool = False,
    report: Callable[[str], None] = print,
) -> Run:
    """Opens a run folder: the newest good checkpoint, or the step asked for.

    Needs nothing but the folder, and runs no code out of it; any number of devices will do.
    With `here`, each of several processes works on its own devices, apart from the others; else on
    all devices of all, together. `report` is given a line for each damaged checkpoint passed over.
    Raises UserError if the folder holds no checkpoint, or the one asked for is missing or damaged.
    """
    folder = storage_path(folder)
    checkpoints = Checkpoints(folder, report=report)
    step = broadcast_from_first(lambda: checkpoints.newest_good(checkpoint))
    if step is None:
        if folder.is_file():
            raise UserError(f"{folder} is a file; name the folder of a run, as runs/digits")
        what = "has no checkpoints" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {what}; train first: ddpm train CONFIG --workdir {folder}")
    config = checkpoints.config(step)
    mesh = fitting_mesh(config.mesh.fsdp, jax.local_devices() if here else None)
    experiment = build(config, devices=mesh.size)
    name = "params" if params == "raw" else f"ema.{params}"
    shapes = checkpoints.shapes(step, name)
    if shapes is None:
        shapes = jax.eval_shape(experiment.init_params, jax.random.key(0))
    restored = checkpoints.restore(step, {name: with_shardings(shapes, mesh)})[name]
    return Run(folder, step, experiment, restored, name=params, mesh=mesh)
