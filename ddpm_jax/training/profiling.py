"""A trace of a few steps of training, for TensorBoard and Perfetto."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax

from ddpm_jax.errors import UserError, require_whole
from ddpm_jax.files import Remote, StoragePath
from ddpm_jax.runtime.distributed import is_first


class Profile:
    """Traces some steps, from the second dispatch of this start on: the first may warm up."""

    def __init__(self, folder: Path | None, steps: int, say: Callable[[str], None]):
        """Writes into `folder`; None traces nothing."""
        self._folder, self._steps, self._say = folder, steps, say
        self._end: int | None = None
        self._waiting = 2 if folder is not None else 0
        """Dispatches until the trace begins; 0 after it has begun."""

    def step(self, step: int) -> AbstractContextManager[Any]:
        """Returns the context of the dispatch that begins at `step`; the trace shows its number."""
        if self._waiting:
            self._waiting -= 1
            if not self._waiting:
                jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
                self._end = step + self._steps
        if self._end is None:
            return nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def made(self, step: int, state: Any) -> None:
        """Ends the trace if all its steps are made, once `state` is there."""
        if self._end is not None and step >= self._end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes the trace if it has begun, even if steps are missing."""
        if self._end is not None:
            self._end = None
            jax.profiler.stop_trace()
            self._say(f"the trace is in {self._folder}; to see it: xprof --logdir {self._folder}")


NO_PROFILE = Profile(None, 0, lambda line: None)


def make_profile(run: StoragePath, steps: int | None, say: Callable[[str], None]) -> Profile:
    """Returns the profile of so many steps in a run's folder; None traces nothing.

    Of several processes the first one traces: the others have the same steps. Raises UserError for
    steps below 1, and for a run in a bucket, which JAX can't write to.
    """
    if steps is None:
        return NO_PROFILE
    require_whole("profile", steps)
    if isinstance(run, Remote):
        raise UserError(f"profile: {run} is in a bucket; trace a run whose --workdir is on a disk")
    if not is_first():
        return NO_PROFILE
    return Profile(Path(run) / "profile", steps, say)
