"""Weights & Biases (https://docs.wandb.ai), an optional extra: imported only where it is chosen."""

import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.training.logging.logger import LogContext, Logger


class WandB(Logger):
    """Sends rows and pictures to the project of the WANDB_PROJECT variable, or "ddpm_jax".

    A run that is started again keeps its id. Points after the step of a rewind stay as they were
    sent, because the service drops new points of an earlier step. Raises UserError if wandb is not
    installed, or refuses.
    """

    def __init__(self, context: LogContext):
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError:
            raise UserError(
                "train.loggers names wandb, which is not installed; "
                'install it with: pip install "ddpm_jax[wandb]"'
            ) from None
        context.folder.mkdir(parents=True, exist_ok=True)
        with self._told():
            self._run = self._wandb.init(
                id=hashlib.sha256(os.fsencode(context.address)).hexdigest()[:16],
                name=context.run,
                dir=str(context.folder),
                config=dict(context.settings),
                resume="allow",
            )

    def row(self, step: int, values: Mapping[str, float]) -> None:
        with self._told():
            self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        with self._told():
            self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        with self._told():
            self._run.finish()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._wandb.Error as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"the logger wandb failed ({reason}); log in (wandb login), or set "
                "WANDB_MODE=offline, or take it out of train.loggers"
            ) from None
