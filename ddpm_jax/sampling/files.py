"""Samples to single files and back: pictures and animations to look at, and arrays."""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ddpm_jax import plots
from ddpm_jax.data.pixels import to_pixels
from ddpm_jax.errors import UserError
from ddpm_jax.files import StoragePath, replacing
from ddpm_jax.sampling.samples import Samples, draw_grid, visible
from ddpm_jax.typing import Batch, is_image

Arrays = dict[str, np.ndarray]


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


def write_picture(path: StoragePath, picture: np.ndarray) -> None:
    """Writes uint8 pixels `[H, W, C]`, C = 1, 3 or 4, as a PNG."""
    from PIL import Image

    grey = picture.shape[-1] == 1
    with replacing(path) as beside:
        Image.fromarray(picture[..., 0] if grey else picture).save(beside, "PNG")


def write_pixels(path: StoragePath, drawn: Samples) -> None:
    """Writes pictures as `write_joined` does; raises UserError unless all are finite."""
    batch = Batch(pixels_of(drawn.samples), drawn.labels)
    write_joined(path, drawn.samples.shape, [batch], drawn.class_names)


def write_joined(
    path: StoragePath, shape: tuple[int, ...], batches: Iterable[Batch], class_names: Sequence[str]
) -> None:
    """Writes uint8 pictures as a .npz of ADM's evaluator: `arr_0`, and `arr_1` int64 if labelled.

    It also has the `class_names`, which that evaluator does not read. `shape` is that of all
    batches together; one is held at a time. Source: `scripts/image_sample.py` of guided-diffusion,
    the code of Dhariwal and Nichol 2021.
    """
    labels = []
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in batches:
                file.write(np.ascontiguousarray(batch.examples).data)
                labels += [] if batch.labels is None else [batch.labels]
        arrays: Arrays = {}
        if labels:
            arrays["arr_1"] = np.concatenate(labels).astype(np.int64)
        if class_names:
            arrays["class_names"] = np.array(class_names, np.str_)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def pixels_of(samples: np.ndarray) -> np.ndarray:
    """Returns pictures in [-1, 1] as uint8; raises UserError unless all are finite."""
    if not np.isfinite(samples).all():
        raise UserError("samples: some are not finite, and have no pixels; draw them as npz")
    return np.asarray(to_pixels(samples))


def read_samples(path: StoragePath) -> Arrays:
    """Returns the arrays of a .npz that `write_samples` wrote; unpickles nothing.

    Raises UserError if it is damaged, or has no floats `samples` `[N, …]` with fitting labels.
    """
    found = _read(path)
    samples = found.get("samples")
    if samples is None or samples.dtype.kind != "f" or samples.ndim < 2:
        raise UserError(f"{path} has no samples, floats [N, …]; give a file of ddpm sample")
    return _with_fitting_labels(path, found)


def read_pixels(path: StoragePath) -> Arrays:
    """Returns the arrays of a .npz for ADM's evaluator, named as by `read_samples`.

    Raises UserError if it is damaged, or has no uint8 `arr_0` `[N, H, W, C]` with fitting labels.
    """
    ours = {"arr_0": "samples", "arr_1": "labels"}
    found = {ours.get(name, name): array for name, array in _read(path).items()}
    samples = found.get("samples", np.zeros(0))
    if samples.dtype != np.uint8 or samples.ndim != 4:
        have = f"{samples.shape} of {samples.dtype}"
        raise UserError(f"{path}: arr_0 is {have}; it must be pictures, uint8 [N, H, W, C]")
    return _with_fitting_labels(path, found)


def _read(path: StoragePath) -> Arrays:
    try:
        # The whole file, because a bucket's stream can't go back.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; draw the samples again") from None
    # zipfile, zlib and NumPy each raise their own errors for a damaged file.
    except Exception as error:
        raise UserError(f"{path} can't be read ({error}); draw the samples again") from None


def _with_fitting_labels(path: StoragePath, found: Arrays) -> Arrays:
    labels, names = found.get("labels"), found.get("class_names")
    if labels is not None:
        whole = labels.dtype.kind in "iu" and labels.shape == (len(found["samples"]),)
        if not whole or labels.min(initial=0) < -1:
            raise UserError(f"{path} has labels that do not fit its samples; draw them again")
    if names is not None and (labels is None or labels.max(initial=0) >= len(names)):
        raise UserError(f"{path} has class_names that do not fit its labels; draw them again")
    return found


def class_names_in(arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the name of each label in a file of samples; empty without labels.

    Samples of which some have no class count as unlabelled.
    """
    if "labels" not in arrays or arrays["labels"].min(initial=0) < 0:
        return ()
    if "class_names" in arrays:
        return tuple(map(str, arrays["class_names"]))
    return tuple(map(str, range(int(arrays["labels"].max()) + 1)))


def animation_size(shape: tuple[int, ...]) -> int:
    """Returns how many examples of a shape an animation shows: as many as an eye can follow."""
    return 64 if is_image(shape) else 2_000
