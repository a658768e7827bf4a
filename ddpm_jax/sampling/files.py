"""Samples to files, in the form that the path's ending asks for."""

import io
from collections.abc import Mapping

import numpy as np

from ddpm_jax import plots
from ddpm_jax.errors import UserError
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


def read_samples(path: StoragePath) -> dict[str, np.ndarray]:
    """Returns the arrays of a .npz that `write_samples` wrote; unpickles nothing.

    Raises UserError if it is damaged, or has no floats `samples` `[N, …]` with fitting labels.
    """
    try:
        # The whole file, because a bucket's stream can't go back.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; draw the samples again") from None
    # zipfile, zlib and NumPy each raise their own errors for a damaged file.
    except Exception as error:
        raise UserError(f"{path} can't be read ({error}); draw the samples again") from None
    samples, labels = found.get("samples"), found.get("labels")
    if samples is None or samples.dtype.kind != "f" or samples.ndim < 2:
        raise UserError(f"{path} has no samples, floats [N, …]; give a file of ddpm sample")
    if labels is not None and (labels.dtype.kind != "i" or labels.shape != samples.shape[:1]):
        raise UserError(f"{path} has labels that do not fit its samples; draw them again")
    return found


def class_names_in(arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the name of each label in a file of samples; empty without labels."""
    if "labels" not in arrays:
        return ()
    if "class_names" in arrays:
        return tuple(map(str, arrays["class_names"]))
    return tuple(map(str, range(int(arrays["labels"].max()) + 1)))


def animation_size(shape: tuple[int, ...]) -> int:
    """Returns how many examples of a shape an animation shows: as many as an eye can follow."""
    return 64 if is_image(shape) else 2_000
