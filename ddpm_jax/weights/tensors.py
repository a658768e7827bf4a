"""Named arrays out of a file of weights, without running what is in it."""

import importlib
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.files import reason

Tensors = dict[str, np.ndarray]

MOST_BYTES = 2**34
"""The largest file that is read unless a caller knows better: five times guided-diffusion's."""
PACKAGES = "pip install 'ddpm_jax[weights]'"

# How a PyTorch before 1.6 begins a file: its magic number, pickled.
_OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
# Older ones run code, or corrupt memory, with weights_only too: CVE-2025-32434, CVE-2026-24747.
_SAFE_TORCH = (2, 10)


def read_tensors(path: Path, *, most: int = MOST_BYTES, mend: str = "take another file") -> Tensors:
    """Returns the arrays of a `.safetensors` file, or of a state dict of PyTorch, by name.

    Names of dicts inside a dict are joined by dots; what is no tensor is left out. Reading
    PyTorch's files takes PyTorch. Nothing in a file is run. Raises UserError, which ends with
    `mend`, for a file above `most` bytes, and for one that can't be read or is not what it is named
    after.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > most:
                raise UserError(f"{path} is larger than {most:,} bytes, the most it can be; {mend}")
            return (_safetensors if path.suffix == ".safetensors" else _torch)(path, file, mend)
    except OSError as error:
        raise UserError(f"{path} can't be read ({reason(error)}); {mend}") from None


def read_metadata(path: Path) -> Mapping[str, str]:
    """Returns the texts in the header of a `.safetensors` file; UserError if it can't be read."""
    with _opened(path, "take another file") as found:
        return found.metadata() or {}


def write_safetensors(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Writes arrays by name, in C order, with texts in the header; makes the folder for it."""
    numpy = import_package(path, "safetensors.numpy")
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    numpy.save_file(packed, path, metadata=dict(metadata))
    # The library leaves a file that only its owner can read; others may, as with any new file.
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def import_package(path: Path, name: str) -> ModuleType:
    """Imports a package that only some formats need; raises UserError with the way to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = "PyTorch" if name == "torch" else name.partition(".")[0]
        raise UserError(f"{path}: this takes {package}: {PACKAGES}") from None


def _safetensors(path: Path, file: BinaryIO, mend: str) -> Tensors:
    del file  # The library opens the path itself, and checks the whole header.
    with _opened(path, mend) as found:
        return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118


class _opened:
    """Opens a `.safetensors` file; turns whatever the library raises into one line."""

    def __init__(self, path: Path, mend: str):
        self._package = import_package(path, "safetensors")
        self._said = f"{path} is not a readable .safetensors file; {mend}"
        try:
            self._file = self._package.safe_open(path, framework="np")
        except Exception:
            raise UserError(self._said) from None

    def __enter__(self) -> Any:
        return self._file.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.__exit__(kind, error, trace)
        # Its own class, KeyError for types that NumPy lacks, and others.
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(self._said) from None


def _torch(path: Path, file: BinaryIO, mend: str) -> Tensors:
    if zipfile.is_zipfile(file):
        _refuse_scripts(path, file, mend)
    else:
        file.seek(0)
        if file.read(len(_OLD_TORCH)) != _OLD_TORCH:
            raise UserError(f"{path} is no file of weights, .safetensors or PyTorch's; {mend}")
    torch = _import_torch(path)
    file.seek(0)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        tensors = dict(_flat("", state))
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is a pickle that asks to run code, which it was not allowed; {mend}"
        ) from None
    except Exception:  # PyTorch raises many kinds for damaged files.
        tensors = {}
    if not tensors:
        raise UserError(f"{path} is damaged, or holds no weights; {mend}")
    return tensors


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), item)
    elif hasattr(value, "numpy"):
        value = value.detach()
        # NumPy has no bfloat16; float32 holds each of its values.
        yield prefix, (value.float() if "bfloat16" in str(value.dtype) else value).numpy()


def _refuse_scripts(path: Path, file: BinaryIO, mend: str) -> None:
    """Raises UserError for TorchScript, and for what unpacks to more than the file."""
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise UserError(f"{path} is a damaged zip; {mend}") from None
    inside = [entry.filename.partition("/")[2] for entry in entries]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inside):
        raise UserError(f"{path} is TorchScript, which is code and is not run; {mend}")
    # PyTorch stores its arrays as they are.
    if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
        raise UserError(f"{path} unpacks to more than its own size, as no weights do; {mend}")


def _import_torch(path: Path) -> ModuleType:
    torch = import_package(path, "torch")
    version = torch.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < _SAFE_TORCH:
        raise UserError(
            f"{path}: PyTorch {version} may run code in such a file; pip install 'torch>=2.10'"
        )
    return torch
