"""What a run measures while it trains: the section `validation`."""

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass

from ddpm_jax.config.checks import require_row
from ddpm_jax.config.values import from_text, members, typed
from ddpm_jax.data import DataConfig
from ddpm_jax.errors import require, require_whole


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The loss on held-out data during training, metrics of the previews, and the best checkpoint.

    The loss is the objective's, of the first average, at timesteps and noise that never change.
    """

    every: int | None = None
    """Steps between two validation losses; None for none."""
    share: float = 0.0
    """Share of the data that is held out at random: training never sees it."""
    data: tuple[str, ...] = ()
    """Other data to hold out, as the settings of data that differ: split=test, or path=FOLDER."""
    num: int = 1024
    """At most so many held-out examples, chosen at random, make the validation loss."""
    metrics: tuple[str, ...] = ()
    """Metrics of the previews' samples against the held-out data, or the training data if none are
    held out."""
    num_samples: int | None = None
    """Samples that the metrics compare; None for as many as a preview shows."""
    keep_best: str | None = None
    """The name of a value whose best checkpoint is kept beside the newest: validation_loss, or one
    that a metric logs; None for none."""

    def __post_init__(self):
        require(0 <= self.share < 1, "validation.share", self.share, "in [0, 1)")
        require_whole("validation.num", self.num)
        if self.num_samples is not None:
            require_whole("validation.num_samples", self.num_samples)
        need = "left out with validation.share, which holds out a part of the data itself"
        require(not self.data or self.share == 0, "validation.data", self.data, need)
        if self.every is not None:
            require_whole("validation.every", self.every)
            need = "None without held-out data; set validation.share or validation.data"
            held_out = self.share > 0 or len(self.data) > 0
            require(held_out, "validation.every", self.every, need)


def held_out_data(data: DataConfig, words: Sequence[str]) -> DataConfig:
    """Returns the data with some settings replaced by words such as split=test.

    Raises UserError for an unknown setting, a value of another type, and examples of another shape.
    """
    hints = typing.get_type_hints(type(data))
    known = [item.name for item in dataclasses.fields(data)]
    settings = {}
    for word in words:
        name, equals, text = word.partition("=")
        require(equals == "=", "validation.data", word, "a setting of data, such as split=test")
        require_row("validation.data", name, known)
        value = text if str in members(hints[name]) else from_text(text)
        settings[name] = typed(hints[name], value, f"validation.data {name}")
    held_out = dataclasses.replace(data, **settings)
    need = f"data with examples of the same shape, {data.example_shape}"
    require(held_out.example_shape == data.example_shape, "validation.data", tuple(words), need)
    return held_out
