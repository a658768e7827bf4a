"""Weights & Biases (https://docs.wandb.ai), an optional extra: imported only where it is chosen."""

import hashlib
import importlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.training.logging.logger import LogContext, Logger


class WandB(Logger):
    """Sends rows and pictures to the project of the WANDB_PROJECT variable, or "ddpm_jax".

    A run that is started again keeps its id. Points after the step of a rewind stay as they were
    sent, because the service drops new points of an earlier step. Raises UserError if wandb is not
    installed.
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
        self._run = self._wandb.init(
            id=hashlib.sha256(os.fsencode(context.folder.resolve())).hexdigest()[:16],
            name=context.run,
            dir=str(context.folder),
            config=dict(context.settings),
            resume="allow",
        )

    def row(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        self._run.finish()
