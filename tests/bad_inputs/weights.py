"""Weights of other projects that are malformed, hostile, or of another network."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.bad_inputs.making import TRAP, Row, every, nothing, put
from tests.weights.pipelines import pipeline

IMPORT = "import {here}/set --from diffusers --workdir {here}/new"
FILE = "unet/diffusion_pytorch_model.safetensors"
BIN = "set/unet/diffusion_pytorch_model.bin"


def good(here: Path) -> None:
    pipeline(here / "set")


def unet(**fields: Any) -> Callable[[Path], object]:
    return lambda here: pipeline(here / "set", unet=fields)


def scheduler(**fields: Any) -> Callable[[Path], object]:
    return lambda here: pipeline(here / "set", scheduler=fields)


def without(name: str) -> Callable[[Path], object]:
    return every(good, lambda here: (here / "set" / name).unlink())


def tensor(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Changes a tensor of the file; None removes it."""

    def make(here: Path) -> None:
        good(here)
        tensors = dict(load_file(here / "set" / FILE))
        tensors[name] = change(tensors.get(name))
        kept = {each: value for each, value in tensors.items() if value is not None}
        save_file(kept, here / "set" / FILE)

    return make


def header(
    change: Callable[[dict[str, Any]], object], *, longer: int = 0
) -> Callable[[Path], object]:
    """Changes the header of the file, and adds to the length that is said of it."""

    def make(here: Path) -> None:
        good(here)
        data = (here / "set" / FILE).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        found = json.loads(data[8 : 8 + length])
        change(found)
        new = json.dumps(found).encode()
        data = struct.pack("<Q", len(new) + longer) + new + data[8 + length :]
        (here / "set" / FILE).write_bytes(data)

    return make


def larger(found: dict[str, Any]) -> None:
    found["conv_out.bias"]["shape"] = [2**40]


def overlapping(found: dict[str, Any]) -> None:
    found["conv_out.bias"]["data_offsets"] = found["conv_in.bias"]["data_offsets"]


def of_eight_bits(found: dict[str, Any]) -> None:
    bias = found["conv_out.bias"]
    bias |= {"dtype": "F8_E5M2", "shape": [4 * side for side in bias["shape"]]}


def poisoned(value: np.ndarray) -> np.ndarray:
    return np.where(np.arange(value.size).reshape(value.shape) == 0, np.nan, value).astype("f")


def bin_file(data: bytes) -> Callable[[Path], object]:
    return every(without(FILE), put(BIN, data))


def zipped(compression: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name.replace('__', '.')}", data)
    return file.getvalue()


CONV = "conv_in.weight"
WEIGHTS = {
    "weights: no folder": Row(nothing, IMPORT, "is no folder; name the folder of a pipeline"),
    "weights: an empty folder": Row(put("set/a"), IMPORT, "has no config.json"),
    "weights: EDM's pickle": Row(
        put("x.pkl", TRAP),
        "import {here}/x.pkl --from diffusers --workdir {here}/new",
        "holds source code, which opening it would run",
    ),
    "weights: a run folder that exists": Row(
        good, "import {here}/set --from diffusers --workdir {here}/set", "is there already"
    ),
    "weights: config cut off": Row(
        every(good, put("set/unet/config.json", '{"sample_size": 8')),
        IMPORT,
        "is not a JSON object",
    ),
    "weights: config is a list": Row(
        every(good, put("set/unet/config.json", "[1]")), IMPORT, "is not a JSON object"
    ),
    "weights: config is huge": Row(
        every(good, put("set/unet/config.json", "{}" + " " * 2**20)), IMPORT, "is not a JSON object"
    ),
    "weights: config is deep": Row(
        every(good, put("set/unet/config.json", "[" * 100_000)), IMPORT, "is not a JSON object"
    ),
    "weights: another class": Row(
        unet(_class_name="UNet2DConditionModel"), IMPORT, "_class_name is 'UNet2DConditionModel'"
    ),
    "weights: a field unheard of": Row(
        unet(fourier_scale=16), IMPORT, "fourier_scale is 16; there is nothing here that it sets"
    ),
    "weights: an embedding of another kind": Row(
        unet(time_embedding_type="fourier"), IMPORT, "time_embedding_type is 'fourier'"
    ),
    "weights: another activation": Row(unet(act_fn="gelu"), IMPORT, "act_fn is 'gelu'"),
    "weights: centred input": Row(unet(center_input_sample=True), IMPORT, "center_input_sample is"),
    "weights: no middle": Row(unet(mid_block_type=None), IMPORT, "mid_block_type is None"),
    "weights: a scaled middle": Row(
        unet(mid_block_scale_factor=2), IMPORT, "mid_block_scale_factor is 2"
    ),
    "weights: other outputs": Row(unet(out_channels=6), IMPORT, "out_channels is 6; it must be 3"),
    "weights: no size": Row(unet(sample_size=None), IMPORT, "sample_size is None"),
    "weights: text for a number": Row(
        unet(layers_per_block="1"), IMPORT, "layers_per_block is '1'; it must be int"
    ),
    "weights: levels that contradict": Row(
        unet(block_out_channels=[8, 16, 16]), IMPORT, "block_out_channels is [8, 16, 16]; it must"
    ),
    "weights: widths that are no multiples": Row(
        unet(block_out_channels=[8, 20]), IMPORT, "it must be multiples of the first"
    ),
    "weights: ways that contradict": Row(
        unet(up_block_types=["UpBlock2D", "ResnetUpsampleBlock2D"]),
        IMPORT,
        "down_block_types is 'AttnDownBlock2D with UpBlock2D'",
    ),
    "weights: half residual": Row(
        unet(upsample_type="conv"), IMPORT, "it must be all Resnet… or none of them"
    ),
    "weights: frequencies that contradict": Row(
        unet(freq_shift=1), IMPORT, "freq_shift is 1; it must be 0 beside flip_sin_to_cos True"
    ),
    "weights: two names that contradict": Row(
        unet(resnet_eps=0.5), IMPORT, "resnet_eps is 0.5; it must be 1e-05 like norm_eps"
    ),
    "weights: a middle without a norm": Row(
        unet(attn_norm_num_groups=None), IMPORT, "attn_norm_num_groups is None; it must be 4"
    ),
    "weights: groups that do not fit": Row(
        unet(norm_num_groups=3, attn_norm_num_groups=3), IMPORT, "norm_num_groups is 3"
    ),
    "weights: heads that do not fit": Row(
        unet(attention_head_dim=5), IMPORT, "model.head_channels is 5; it must be a divisor"
    ),
    "weights: no scheduler": Row(
        without("scheduler/scheduler_config.json"), IMPORT, "has no scheduler_config.json"
    ),
    "weights: another scheduler": Row(
        scheduler(_class_name="PNDMScheduler"), IMPORT, "_class_name is 'PNDMScheduler'"
    ),
    "weights: betas of its own": Row(
        scheduler(trained_betas=[0.1]), IMPORT, "trained_betas is [0.1]; it must be None"
    ),
    "weights: a variance that is NaN": Row(
        scheduler(variance_type="fixed_large_log"), IMPORT, "variance_type is 'fixed_large_log'"
    ),
    "weights: thresholding": Row(scheduler(thresholding=True), IMPORT, "thresholding is True"),
    "weights: no signal at the end": Row(
        scheduler(rescale_betas_zero_snr=True), IMPORT, "rescale_betas_zero_snr is True"
    ),
    "weights: times with an offset": Row(scheduler(steps_offset=1), IMPORT, "steps_offset is 1"),
    "weights: an impossible schedule": Row(
        scheduler(beta_start=-1), IMPORT, "beta_1 is -1.0; it must be between 0 and 1"
    ),
    "weights: no file": Row(without(FILE), IMPORT, "has neither diffusion_pytorch_model.saf"),
    "weights: an empty file": Row(
        every(good, put(f"set/{FILE}")), IMPORT, "is not a readable .safetensors file"
    ),
    "weights: a file cut off": Row(
        every(good, lambda here: _cut(here / "set" / FILE)), IMPORT, "is not a readable .safete"
    ),
    "weights: a header that is longer": Row(
        header(lambda found: None, longer=2**50), IMPORT, "is not a readable .safetensors file"
    ),
    "weights: a header with another shape": Row(
        header(larger), IMPORT, "is not a readable .safetensors file"
    ),
    "weights: a header with tensors in one place": Row(
        header(overlapping), IMPORT, "is not a readable .safetensors file"
    ),
    "weights: a type that NumPy lacks": Row(
        header(of_eight_bits), IMPORT, "is not a readable .safetensors file"
    ),
    "weights: a tensor too few": Row(
        tensor(CONV, lambda value: None), IMPORT, "has no conv_in.weight, which this network needs"
    ),
    "weights: a tensor too many": Row(
        tensor("extra.weight", lambda value: np.zeros(2, "f")),
        IMPORT,
        "has extra.weight, for which this network has no place",
    ),
    "weights: a tensor of another shape": Row(
        tensor(CONV, lambda value: value[:, :2].copy()),
        IMPORT,
        "conv_in.weight is float32 [8, 2, 3, 3]; it must be a float [8, 3, 3, 3]",
    ),
    "weights: a tensor turned over": Row(
        tensor("time_embedding.linear_1.weight", lambda value: value.T.copy()),
        IMPORT,
        "time_embedding.linear_1.weight is float32 [8, 32]; it must be a float [32, 8]",
    ),
    "weights: whole numbers": Row(
        tensor(CONV, lambda value: value.astype(np.int32)), IMPORT, "conv_in.weight is int32"
    ),
    "weights: NaN": Row(
        tensor(CONV, poisoned), IMPORT, "conv_in.weight has values that are not finite"
    ),
    "weights: a pickle that makes a folder": Row(
        bin_file(TRAP), IMPORT, "is no file of weights, .safetensors or PyTorch's"
    ),
    "weights: a zip bomb": Row(
        bin_file(zipped(zipfile.ZIP_DEFLATED, data__pkl=TRAP, data=bytes(10**7))),
        IMPORT,
        "unpacks to more than its own size",
    ),
    "weights: TorchScript": Row(
        bin_file(zipped(data__pkl=TRAP, constants__pkl=TRAP)), IMPORT, "is TorchScript"
    ),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
