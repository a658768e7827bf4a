"""What an edit gives, and its files."""

from typing import NamedTuple

import numpy as np

from ddpm_jax import plots
from ddpm_jax.files import StoragePath, replacing
from ddpm_jax.sampling.files import pixels_of, write_picture
from ddpm_jax.sampling.samples import Samples, visible

_MOST_SHOWN = 8
"""Results in a strip."""


class Edited(NamedTuple):
    """What an edit gives."""

    samples: Samples
    """One result for each picture or variant."""
    strip: dict[str, np.ndarray]
    """What stands before the results in a strip, by its caption: `[num, H, W, C]` each; nothing
    where the results themselves are a way."""
    noise: np.ndarray | None = None
    """The x_T of an inversion, `[num, H, W, C]`."""
    values: dict[str, float] = {}  # noqa: RUF012
    """What was measured, by name."""

    def __repr__(self) -> str:
        values = "".join(f", {name} {value:.2g}" for name, value in self.values.items())
        return f"Edited({self.samples!r}{values})"

    def _repr_png_(self) -> bytes:
        return self.samples._repr_png_()


def write_edited(path: StoragePath, edited: Edited) -> list[StoragePath]:
    """Writes the results and a strip of what was given and made, and returns the files.

    Of FILE.png, FILE-2.png, FILE-3.png … are the second result and so on; FILE.npz has `samples`,
    and `noise` if there is any. FILE-strip.png is the last file of all.
    """
    drawn = edited.samples
    results = visible(drawn.samples, drawn.shown)
    files = [path]
    if path.suffix == ".npz":
        arrays = {"samples": drawn.samples}
        if edited.noise is not None:
            arrays["noise"] = edited.noise
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    else:
        more = range(2, len(results) + 1)
        files += [path.with_name(f"{path.stem}-{i}{path.suffix}") for i in more]
        for each, picture in zip(files, pixels_of(results), strict=True):
            write_picture(each, picture)
    strip = path.with_name(f"{path.stem}-strip.png")
    before = {name: visible(each[0], drawn.shown) for name, each in edited.strip.items()}
    results = results[:_MOST_SHOWN]
    heads = [*before, "edited", *(str(i) for i in range(2, len(results) + 1))]
    plots.trajectory(
        strip, np.stack([*before.values(), *results]), columns=heads if before else None
    )
    return [*files, strip]
