"""The published weights of Inception: where they are, and reading them without running code."""

import hashlib
import importlib
import io
import pickle
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features.inception.network import (
    FEATURES,
    LOGITS,
    NORM_EPSILON,
    Parameters,
    kernel_shapes,
)
from ddpm_jax.files import cache_folder, local_path, reason

Tensors = dict[str, np.ndarray]

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
# How a PyTorch before 1.6 begins a file: its magic number, pickled.
_OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
# Older ones run code, or corrupt memory, with weights_only too: CVE-2025-32434, CVE-2026-24747.
_SAFE_TORCH = (2, 10)


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
    data = _read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if path.name in PUBLISHED and digest != SHA256:
        raise UserError(f"{path} is not the file of that name, or damaged (its SHA-256); {_TAKE}")
    tensors = _safetensors(path, data) if path.suffix == ".safetensors" else _torch(path, data)
    _check_layout(path, tensors)
    folded = {name: _fold(path, name, tensors) for name in kernel_shapes()}
    logits = tensors["fc.weight"].T
    _require_finite(path, "fc", logits)
    return Parameters(folded, logits), digest


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} can't be read ({reason(error)}); {_TAKE}") from None
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path} is larger than Inception's weights, 96 MB; {_TAKE}")
    return data


def _safetensors(path: Path, data: bytes) -> Tensors:
    try:
        numpy = importlib.import_module("safetensors.numpy")
    except ImportError:
        raise UserError(
            f"{path}: reading it takes a package: pip install 'ddpm_jax[inception]'"
        ) from None
    try:
        return numpy.load(data)
    except Exception:  # Its own class, KeyError for types that NumPy lacks, and others.
        raise UserError(f"{path} is not a readable .safetensors file; {_TAKE}") from None


def _torch(path: Path, data: bytes) -> Tensors:
    if zipfile.is_zipfile(io.BytesIO(data)):
        _refuse_scripts(path, data)
    elif not data.startswith(_OLD_TORCH):
        raise UserError(f"{path} is no file of weights, .safetensors or PyTorch's; {_TAKE}")
    torch = _import_torch(path)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {str(name): tensor.numpy() for name, tensor in state.items()}
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is a pickle that asks to run code, which it was not allowed; {_TAKE}"
        ) from None
    except Exception:  # PyTorch raises many kinds for damaged files, and other objects lack items.
        raise UserError(f"{path} is damaged, or holds no weights; {_TAKE}") from None


def _refuse_scripts(path: Path, data: bytes) -> None:
    """Raises UserError for TorchScript, and for what unpacks to more than weights can be."""
    try:
        entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise UserError(f"{path} is a damaged zip; {_TAKE}") from None
    inside = [entry.filename.partition("/")[2] for entry in entries]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inside):
        raise UserError(f"{path} is TorchScript, which is code and is not run; {_TAKE}")
    if sum(entry.file_size for entry in entries) > _MOST_BYTES:
        raise UserError(f"{path} unpacks to more than Inception's weights, 96 MB; {_TAKE}")


def _import_torch(path: Path) -> ModuleType:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise UserError(
            f"{path}: reading it takes PyTorch: pip install 'ddpm_jax[inception]' (or torch alone)"
        ) from None
    version = torch.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < _SAFE_TORCH:
        raise UserError(
            f"{path}: PyTorch {version} may run code in such a file; pip install 'torch>=2.10'"
        )
    return torch


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
