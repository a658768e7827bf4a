"""The published weights of Inception: where they are, and reading them without running code."""

from pathlib import Path

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features.inception.network import (
    FEATURES,
    LOGITS,
    NORM_EPSILON,
    Parameters,
    kernel_shapes,
)
from ddpm_jax.files import cache_folder, local_path, sha256
from ddpm_jax.weights.tensors import Tensors, read_tensors

# Two projects publish the same bytes; the name holds the first digits of their SHA-256.
PUBLISHED = {
    "pt_inception-2015-12-05-6726825d.pth": "https://github.com/mseitzer/pytorch-fid/releases/"
    "download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth": "https://github.com/toshas/torch-fidelity/"
    "releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
}
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_NAME, _URL = next(iter(PUBLISHED.items()))
_TAKE = f"take pytorch-fid's {_NAME} from {_URL}"

# The file holds 96 MB; much more is another thing, and would fill the memory.
_MOST_BYTES = 2**28


def find_weights(given: str | None = None) -> Path:
    """Returns the file that was given, or the published one in the cache; UserError if neither."""
    if given is not None:
        path = local_path(given)
        if path.is_file():
            return path
        raise UserError(f"{path}: there is no such file of weights; {_TAKE}")
    cache = cache_folder()
    names = [*PUBLISHED, *(str(Path(name).with_suffix(".safetensors")) for name in PUBLISHED)]
    for path in [cache / "inception" / name for name in names] if cache else []:
        if path.is_file():
            return path
    where = f"put it into {cache / 'inception'}, or " if cache else ""
    raise UserError(f"there are no weights of Inception: {_TAKE}, then {where}name the file")


def read_weights(path: str | Path) -> tuple[Parameters, str]:
    """Returns the network's parameters, and the SHA-256 of the file that they come from.

    A `.safetensors` file, or a state dict of pytorch-fid or torch-fidelity; the latter needs
    PyTorch. Nothing in a file is run. Raises UserError for a file that can't be read, that is not
    what it is named after, or that holds other tensors than the network's, or not finite ones.
    """
    path = local_path(path)
    if path.name in PUBLISHED and path.is_file() and sha256(path) != SHA256:
        raise UserError(f"{path} is not the file of that name, or damaged (its SHA-256); {_TAKE}")
    tensors = read_tensors(path, most=_MOST_BYTES, mend=_TAKE)
    _check_layout(path, tensors)
    folded = {name: _fold(path, name, tensors) for name in kernel_shapes()}
    logits = tensors["fc.weight"].T
    _require_finite(path, "fc", logits)
    return Parameters(folded, logits), sha256(path)


def _check_layout(path: Path, tensors: Tensors) -> None:
    """Raises UserError unless names, shapes and types are those of the published file."""
    wanted: dict[str, tuple[int, ...]] = {"fc.weight": (LOGITS, FEATURES), "fc.bias": (LOGITS,)}
    for name, (height, width, inputs, outputs) in kernel_shapes().items():
        wanted[f"{name}.conv.weight"] = (outputs, inputs, height, width)
        for part in ("weight", "bias", "running_mean", "running_var"):
            wanted[f"{name}.bn.{part}"] = (outputs,)
    found = {name for name in tensors if not name.endswith(".num_batches_tracked")}
    for name in sorted(wanted.keys() - found):
        raise UserError(f"{path} has no {name}, so it is not this Inception; {_TAKE}")
    for name in sorted(found - wanted.keys()):
        raise UserError(f"{path} has {name}, so it is not this Inception; {_TAKE}")
    for name, shape in wanted.items():
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise UserError(
                f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}; it must be float32 "
                f"{list(shape)}; {_TAKE}"
            )


def _fold(path: Path, name: str, tensors: Tensors) -> tuple[np.ndarray, np.ndarray]:
    """Returns a convolution's kernel and bias with the norm after it multiplied in."""
    gain, shift, mean, variance = (
        tensors[f"{name}.bn.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gain / np.sqrt(variance + NORM_EPSILON)
        kernel = tensors[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * scale
        folded = kernel.astype(np.float32), (shift - mean * scale).astype(np.float32)
    for array in folded:
        _require_finite(path, name, array)
    return folded


def _require_finite(path: Path, name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {name} has values that are not finite; {_TAKE}")
