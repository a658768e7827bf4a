"""Files of weights: what is read of them, and that each bad one is a line and runs nothing.

Most rows play a network of two convolutions, whose files are small. Rows that need PyTorch's own
behaviour skip without it; a stand-in shows in every environment how it is called.
"""

import hashlib
import io
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.features.inception import weights
from ddpm_jax.evaluation.features.inception.network import kernel_shapes
from ddpm_jax.evaluation.features.inception.weights import find_weights, read_weights
from tests.evaluation.features.inception import oracle

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
OLD_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


class Trap:
    """Makes a folder if it is ever unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


TRAP = pickle.dumps(Trap(), protocol=2)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A network of two convolutions and 5 × 4 logits, in an empty folder."""
    shapes = {"first": (3, 3, 3, 4), "block.second": (1, 1, 4, 4)}
    monkeypatch.setattr(weights, "kernel_shapes", lambda: shapes)
    monkeypatch.setattr(weights, "FEATURES", 4)
    monkeypatch.setattr(weights, "LOGITS", 5)
    monkeypatch.chdir(tmp_path)


def tensors(**changed: Any) -> oracle.Tensors:
    """The small network's tensors; a changed one is named with __ for a dot, None leaves it out."""
    rng = np.random.default_rng(0)
    found = {"fc.weight": (5, 4), "fc.bias": (5,)}
    found |= {"first.conv.weight": (4, 3, 3, 3), "block.second.conv.weight": (4, 4, 1, 1)}
    for name in ("first", "block.second"):
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{part}"] = (4,)
    made = {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in found.items()}
    made["first.bn.num_batches_tracked"] = np.asarray(7, np.int64)
    made |= {name.replace("__", "."): value for name, value in changed.items()}
    return {name: value for name, value in made.items() if value is not None}


def zipped(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {"data__pkl": b"", **entries}.items():
            archive.writestr(f"archive/{name.replace('__', '.')}", data)
    return file.getvalue()


def with_value(value: float, name: str) -> bytes:
    made = tensors()
    made[name].flat[-1] = value
    return save(made)


F16, FULL = np.float16, "it must be float32"
SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not a readable .safetensors file"),
    "a text": (b"hello, I am no file of weights", "is not a readable .safetensors file"),
    "cut off": (save(tensors())[:-9], "is not a readable .safetensors file"),
    "a missing tensor": (save(tensors(first__bn__bias=None)), "has no first.bn.bias, so"),
    "no logits": (save(tensors(fc__weight=None)), "has no fc.weight, so"),
    "another tensor": (save(tensors(AuxLogits__x=np.zeros(1, "f"))), "has AuxLogits.x, so"),
    "torchvision's 1000 logits": (
        save(tensors(fc__weight=np.zeros((4, 4), "f"))),
        f"fc.weight is float32 [4, 4]; {FULL} [5, 4]",
    ),
    "another kernel": (
        save(tensors(first__conv__weight=np.ones((4, 3, 1, 3), "f"))),
        f"first.conv.weight is float32 [4, 3, 1, 3]; {FULL} [4, 3, 3, 3]",
    ),
    "another norm": (
        save(tensors(block__second__bn__weight=np.ones((1, 4), "f"))),
        f"block.second.bn.weight is float32 [1, 4]; {FULL} [4]",
    ),
    "half precision": (
        save(tensors(fc__bias=np.ones(5, F16))),
        f"fc.bias is float16 [5]; {FULL} [5]",
    ),
    "NaN in a kernel": (
        with_value(np.nan, "first.conv.weight"),
        "first has values that are not finite",
    ),
    "infinity in a norm": (
        with_value(np.inf, "block.second.bn.bias"),
        "block.second has values that are not finite",
    ),
    "a negative variance": (
        with_value(-1, "first.bn.running_var"),
        "first has values that are not finite",
    ),
    "NaN in the logits": (with_value(np.nan, "fc.weight"), "fc has values that are not finite"),
}
TORCH: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is no file of weights"),
    "a text": (b"hello", "is no file of weights"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "is no file of weights"),
    "a plain pickle": (TRAP, "is no file of weights"),
    "TorchScript's constants": (zipped(constants__pkl=TRAP), "is TorchScript, which is code"),
    "TorchScript's code": (zipped(**{"code/a__py": b""}), "is TorchScript, which is code"),
    "a damaged zip": (zipped(data=bytes(99)).replace(b"PK\x01\x02", b"PK\x09\x09"), "damaged zip"),
}


def refused(name: str, data: bytes) -> str:
    """The one line about a file of that name; nothing in it was run."""
    Path(name).write_bytes(data)
    with pytest.raises(UserError) as told:
        read_weights(name)
    line = str(told.value)
    assert "\n" not in line
    assert line.startswith(name)
    assert sorted(os.listdir()) == [name]
    return line


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("row", SAFETENSORS)
def test_a_bad_safetensors_file_is_a_line(row):
    data, says = SAFETENSORS[row]
    line = refused("x.safetensors", data)
    assert says in line
    assert URL in line


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("row", TORCH)
def test_what_is_no_state_dict_never_reaches_pytorch(row, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    data, says = TORCH[row]
    line = refused("x.pth", data)
    assert says in line
    assert URL in line


@pytest.mark.usefixtures("small")
def test_a_file_of_a_published_name_has_the_published_bytes():
    line = refused("pt_inception-2015-12-05-6726825d.pth", save(tensors()))
    assert "is not the file of that name" in line


@pytest.mark.usefixtures("small")
def test_large_files_are_not_read_or_unpacked(monkeypatch):
    data = zipped(data=bytes(3_000))
    monkeypatch.setattr(weights, "_MOST_BYTES", 2_000)
    assert "is larger than 2,000 bytes" in refused("x.pth", data)
    small = io.BytesIO()
    with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data", bytes(3_000))
    assert "unpacks to more than" in refused("x.pth", small.getvalue())


@pytest.mark.usefixtures("small")
def test_a_missing_file_or_a_folder_says_what_to_take(tmp_path):
    for path in ("x.pth", str(tmp_path)):
        with pytest.raises(UserError, match="there is no such file of weights; take") as told:
            find_weights(path)
        assert URL in str(told.value)
        with pytest.raises(UserError, match="can't be read") as told:
            read_weights(path)
        assert URL in str(told.value)


@pytest.mark.usefixtures("small")
def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "this takes PyTorch: pip install" in refused("x.pth", zipped())
    os.remove("x.pth")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    line = refused("x.safetensors", save(tensors()))
    assert "this takes safetensors: pip install 'ddpm_jax[weights]'" in line


# --- PyTorch's part, without PyTorch --------------------------------------------------------------


class Tensor:
    def __init__(self, value: np.ndarray):
        self.numpy, self.dtype = (lambda: value), f"torch.{value.dtype}"

    def detach(self) -> "Tensor":
        return self


def plays_torch(monkeypatch, load: Callable[[], Any], version: str = "2.13.0+cpu") -> None:
    """A module `torch` whose `load` runs what is in the file unless it is told not to."""

    def guarded(file: io.BytesIO, *, map_location: str, weights_only: bool = False) -> Any:
        return load() if weights_only else pickle.loads(TRAP)

    torch = types.ModuleType("torch")
    torch.__dict__.update(load=guarded, __version__=version)
    monkeypatch.setitem(sys.modules, "torch", torch)


def raising(error: Exception) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("data", [zipped(), OLD_MAGIC + TRAP], ids=["zip", "old"])
@pytest.mark.parametrize(
    ("load", "says"),
    [
        (raising(pickle.UnpicklingError("Unsupported global")), "asks to run code"),
        (raising(RuntimeError("no\ncentral directory")), "is damaged, or holds no weights"),
        (lambda: [1, 2], "is damaged, or holds no weights"),
        (lambda: {"epoch": 3}, "is damaged, or holds no weights"),
        (lambda: {"fc.weight": Tensor(np.zeros((5, 4)))}, "has no block.second.bn.bias"),
    ],
)
def test_pytorch_is_told_to_run_nothing(data, load, says, monkeypatch):
    plays_torch(monkeypatch, load)
    line = refused("x.pth", data)
    assert says in line
    assert URL in line


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("version", ["2.9.1", "1.13.0"])
def test_a_pytorch_that_may_run_code_is_not_asked(version, monkeypatch):
    plays_torch(monkeypatch, dict, version)
    assert f"PyTorch {version} may run code in such a file" in refused("x.pth", zipped())


@pytest.mark.usefixtures("small")
def test_a_state_dict_gives_what_a_safetensors_file_gives(monkeypatch):
    plays_torch(monkeypatch, lambda: {name: Tensor(it) for name, it in tensors().items()})
    Path("x.safetensors").write_bytes(save(tensors()))
    Path("x.pth").write_bytes(zipped())
    (one, digest), (other, other_digest) = read_weights("x.safetensors"), read_weights("x.pth")
    assert digest != other_digest
    np.testing.assert_array_equal(one.logits, other.logits)
    assert one.convolutions.keys() == other.convolutions.keys() == {"first", "block.second"}
    for name, arrays in one.convolutions.items():
        for array, same in zip(arrays, other.convolutions[name], strict=True):
            np.testing.assert_array_equal(array, same)


# --- with PyTorch ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("zip_format", [True, False])
def test_pytorchs_own_files(zip_format):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(value) for name, value in tensors().items()}
    torch.save(state, "x.pth", _use_new_zipfile_serialization=zip_format)
    Path("x.safetensors").write_bytes(save(tensors()))
    ours, same = read_weights("x.pth")[0], read_weights("x.safetensors")[0]
    np.testing.assert_array_equal(ours.logits, same.logits)
    for name, arrays in same.convolutions.items():
        np.testing.assert_array_equal(ours.convolutions[name][0], arrays[0])
        np.testing.assert_array_equal(ours.convolutions[name][1], arrays[1])
    os.remove("x.safetensors")
    for value in (Trap(), {"fc.weight": Trap()}, torch.nn.Linear(2, 2)):
        torch.save(value, "x.pth", _use_new_zipfile_serialization=zip_format)
        assert "asks to run code" in refused("x.pth", Path("x.pth").read_bytes())
    torch.save(state, "x.pth", _use_new_zipfile_serialization=zip_format)
    half = Path("x.pth").read_bytes()[:1_500]
    assert "x.pth is" in refused("x.pth", half)


@pytest.mark.usefixtures("small")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_of_pytorch_is_refused():
    torch = pytest.importorskip("torch")
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save("x.pt")
    assert "is TorchScript, which is code" in refused("x.pt", Path("x.pt").read_bytes())


# --- the whole file, and where it is --------------------------------------------------------------


def test_norms_are_folded_and_the_digest_is_the_files(tmp_path):
    written = oracle.state_dict()
    (tmp_path / "x.safetensors").write_bytes(save(written))
    parameters, digest = read_weights(str(tmp_path / "x.safetensors"))
    assert digest == hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()
    assert {n: a[0].shape for n, a in parameters.convolutions.items()} == kernel_shapes()
    assert sum(a.size for pair in parameters.convolutions.values() for a in pair) == 21_768_352
    name = "Mixed_7c.branch3x3_2b"
    gain = written[f"{name}.bn.weight"] / np.sqrt(written[f"{name}.bn.running_var"] + 1e-3)
    kernel, bias = parameters.convolutions[name]
    assert kernel.dtype == bias.dtype == parameters.logits.dtype == np.float32
    np.testing.assert_allclose(
        kernel, np.moveaxis(written[f"{name}.conv.weight"], (2, 3, 1, 0), (0, 1, 2, 3)) * gain, 1e-6
    )
    np.testing.assert_allclose(
        bias, written[f"{name}.bn.bias"] - written[f"{name}.bn.running_mean"] * gain, 1e-5, 1e-7
    )
    np.testing.assert_array_equal(parameters.logits, written["fc.weight"].T)


def test_weights_are_the_named_file_or_one_in_the_cache(tmp_path, monkeypatch):
    (tmp_path / "x.pth").touch()
    assert find_weights(str(tmp_path / "x.pth")) == tmp_path / "x.pth"
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path))
    with pytest.raises(UserError) as told:
        find_weights()
    folder = tmp_path / "inception"
    assert "there are no weights of Inception: take pytorch-fid's pt_inc" in str(told.value)
    assert f"{URL}pt_inception-2015-12-05-6726825d.pth, then put it into {folder}" in str(
        told.value
    )
    folder.mkdir()
    (folder / "pt_inception-2015-12-05-6726825d.safetensors").touch()
    assert find_weights() == folder / "pt_inception-2015-12-05-6726825d.safetensors"
    (folder / "weights-inception-2015-12-05-6726825d.pth").touch()
    assert find_weights() == folder / "weights-inception-2015-12-05-6726825d.pth"
    monkeypatch.setenv("DDPM_JAX_CACHE", "")
    with pytest.raises(UserError, match=r"6726825d.pth, then name the file$"):
        find_weights()
