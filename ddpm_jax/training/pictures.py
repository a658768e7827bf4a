"""What a run draws while it trains: previews, and the pictures at its end."""

from collections.abc import Callable
from typing import Any

from ddpm_jax import plots
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment
from ddpm_jax.files import StoragePath
from ddpm_jax.runtime.distributed import broadcast_from_first, is_first
from ddpm_jax.sampling.cascade import seen_in
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.files import animation_size, write_samples
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.training.logging.run_logger import RunLogger
from ddpm_jax.training.state import TrainState


class Interrupted(Exception):
    """Drawing was given up because the run should stop."""


class Pictures:
    """Draws a run's samples from its first average; every process of the run calls it."""

    def __init__(
        self,
        program: SampleProgram,
        source: Source,
        run: StoragePath,
        logger: RunLogger,
        should_stop: Callable[[], bool],
    ):
        self._program, self._source, self._run, self._logger = program, source, run, logger
        self._should_stop = should_stop

    def draw(self, state: TrainState, num: int, **options: Any) -> Samples:
        """Draws samples of the run's seed; raises Interrupted if the run should stop."""

        def check(done: int, total: int) -> None:
            if self._should_stop():
                raise Interrupted

        experiment = self._program.experiment
        config = experiment.config
        if experiment.is_shown:
            options |= seen_in(experiment, self._source, num)
        params = state.ema[config.train.first_average]
        return self._program(params, num, seed=config.seed, progress=check, **options)

    def has_preview(self, step: int) -> bool:
        """Returns whether the preview of a step is there; the same on every process."""
        return broadcast_from_first(lambda: self._preview(step).is_file())

    def _preview(self, step: int) -> StoragePath:
        return self._run / "samples" / f"{step:08}.png"

    def write_preview(self, step: int, drawn: Samples, shown: int) -> None:
        """Writes the first samples as the preview of a step."""
        if not is_first():
            return
        labels = None if drawn.labels is None else drawn.labels[:shown]
        try:
            path = self._preview(step)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_samples(path, drawn._replace(samples=drawn.samples[:shown], labels=labels))
            self._logger.picture(step, "samples", path)
        except (OSError, UserError) as error:
            self._logger.say(f"the preview of step {step} was not written: {error}")

    def finish(self, state: TrainState) -> None:
        """Draws the pictures of a finished run: samples, their animation, the loss."""
        experiment = self._program.experiment
        *of_samples, loss = _names(experiment)
        self._logger.say(f"drawing {', '.join([*of_samples, loss])}")
        if of_samples:
            try:
                size = animation_size(experiment.config.data.example_shape)
                drawn = self.draw(state, experiment.config.sample.num, num_trajectories=size)
            except Interrupted:
                return
            for name in of_samples if is_first() else ():
                write_samples(self._run / name, drawn)
        if is_first():
            plots.loss(self._run / loss, self._logger.rows())


def _names(experiment: Experiment) -> tuple[str, ...]:
    """Returns the pictures that are drawn at a run's end, the loss last."""
    of_samples = () if experiment.classifies else ("samples.png", "denoising.gif")
    return (*of_samples, "loss.png")


def has_pictures(run: StoragePath, experiment: Experiment) -> bool:
    """Returns whether a finished run has all the pictures that are drawn at its end."""
    return all((run / name).is_file() for name in _names(experiment))
