"""What a page may ask for: checked, and as the command line that does the same."""

import dataclasses
import json
import shlex
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

import numpy as np

from ddpm_jax.config import Config, SampleConfig
from ddpm_jax.config.checks import require_row
from ddpm_jax.config.values import typed
from ddpm_jax.errors import UserError, nearest, require, require_whole
from ddpm_jax.sampling.editing import EDITS
from ddpm_jax.tables import options_of
from ddpm_jax.typing import is_image

T = TypeVar("T")

MOST_PICTURES, MOST_POINTS, MOST_VALUES = 256, 4_000, 2**22
"""Samples of one chain, and numbers in all of them."""
_SETTINGS = {each.name for each in dataclasses.fields(SampleConfig)} - {"num", "batch_size"}
_COUNTS = ("repeats", "jump_length", "jump_samples")


@dataclass(frozen=True)
class Opening:
    """Which parameters of a run."""

    run: str = ""
    checkpoint: int | str | None = None
    params: str | None = None
    ema_length: float | None = None


@dataclass(frozen=True)
class Drawing(Opening):
    """What to draw: samples, or an edit of a picture that was drawn or dropped before."""

    num: int = 16
    seed: int = 0
    first: int = 0
    labels: tuple[int | str, ...] | None = None
    settings: dict = field(default_factory=dict)
    """Those of `Run.sample` that differ from the run's own."""
    every: bool = True
    """Whether to show every step, at most 25 a second; else no chain waits to be seen."""
    how: str | None = None
    """The way of editing; None draws samples."""
    options: dict = field(default_factory=dict)
    """The options of the way of editing."""
    picture: tuple[str, int] | None = None
    """A result and a sample of it."""
    second: tuple[str, int] | None = None
    mask: tuple[int, ...] | None = None
    """The pixels to paint, numbered row by row."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for more than a page can show, and for settings that it can't change."""
        most = MOST_PICTURES if is_image(shape) else MOST_POINTS
        most = max(1, min(most, MOST_VALUES // int(np.prod(shape))))
        require_whole("num", self.num, most=most)
        for name in self.settings:
            if name not in _SETTINGS:
                raise UserError(f"the studio has no setting {name}{nearest(name, [*_SETTINGS])}")
        known: list[str] = []
        if self.how is not None:
            require_row("how", self.how, EDITS)
            known = options_of(EDITS[self.how])
        for name in self.options:
            if name not in known:
                raise UserError(f"{self.how or 'drawing'} has no option {name}")
        for name in _COUNTS:
            if name in self.options:
                require_whole(name, self.options[name], most=100)

    def command(self, folder: str) -> str:
        """Returns the command line that draws the same, for a shell."""
        words = ["ddpm", "sample" if self.how is None else "edit", folder]
        num, labels = self.num, self.labels
        if self.how is None:
            # The command begins at sample 0, so that the ones shown here are its last.
            num += self.first
            if labels and self.first:
                turn = -self.first % len(labels)
                labels = labels[turn:] + labels[:turn]
        else:
            second = self.second is not None or self.mask is not None
            words += ["picture.png", *(["second.png"] if second else []), "--how", self.how]
        flags: dict[str, Any] = {"checkpoint": self.checkpoint, "params": self.params}
        flags |= {"ema_length": self.ema_length, "num": num, "seed": self.seed, "labels": labels}
        flags |= self.settings | self.options
        for name, value in flags.items():
            if value is not None:
                values = value if isinstance(value, list | tuple) else [value]
                words += [f"--{name}", *map(str, values)]
        return shlex.join([*words, "--output", "samples.png" if self.how is None else "edited.png"])


@dataclass(frozen=True)
class Arrows(Opening):
    """The learned score at one time, on a square grid from -reach to reach."""

    t: int = 1
    reach: float = 1.5
    label: int | str | None = None

    def check(self, config: Config) -> None:
        """Raises UserError for a run on pictures, and for a time or reach out of range."""
        require(config.data.example_shape == (2,), "run", self.run, "one on points")
        if self.label is not None and not config.model.num_classes:
            raise UserError(f"label is {self.label}, and this run has no classes")
        require_whole("t", self.t, most=config.diffusion.timesteps)
        require(0 < self.reach <= 1e9, "reach", self.reach, "a number above 0 and at most 1e9")


def read_request(cls: type[T], text: bytes) -> T:
    """Returns a request from JSON; raises UserError for another one."""
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError("the request is not JSON") from None
    return request_of(cls, plain)


def request_of(cls: type[T], plain: Any) -> T:
    """Returns a request from plain values; raises UserError for unknown or unfit ones."""
    hints = get_type_hints(cls)
    if not isinstance(plain, dict):
        raise UserError("the request must be a table of settings")
    for name in plain:
        if name not in hints:
            raise UserError(f"unknown setting {name}{nearest(name, [*hints])}")
    return cls(**{name: typed(hints[name], value, name) for name, value in plain.items()})
