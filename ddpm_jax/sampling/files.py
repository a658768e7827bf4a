"""Samples to files, in the form that the path's ending asks for."""

import numpy as np

from ddpm_jax import plots
from ddpm_jax.files import StoragePath, replacing
from ddpm_jax.sampling.samples import Samples, draw_grid, visible
from ddpm_jax.typing import is_image


def write_samples(path: StoragePath, drawn: Samples) -> None:
    """Writes samples as .png (a grid), .gif (an animation of their trajectories) or .npz.

    Pictures show the channels `drawn.shown`. The .npz holds the whole `samples`, and `labels` and
    `class_names` if there are labels. Raises ValueError for an animation of samples without
    trajectories.
    """
    if path.suffix == ".npz":
        arrays = {"samples": drawn.samples}
        if drawn.labels is not None:
            arrays["labels"] = drawn.labels
        if drawn.class_names:
            arrays["class_names"] = np.array(drawn.class_names, np.str_)
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    elif path.suffix == ".gif":
        if drawn.frames is None:
            raise ValueError("an animation needs samples drawn with num_trajectories")
        plots.animation(path, visible(drawn.frames, drawn.shown))
    else:
        draw_grid(path, drawn)


def animation_size(shape: tuple[int, ...]) -> int:
    """Returns how many examples of a shape an animation shows: as many as an eye can follow."""
    return 64 if is_image(shape) else 2_000
