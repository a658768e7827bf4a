"""The Annotated Diffusion Model: the state dict of its `Unet`, in a `.pt` file.

The file has no settings. What shapes and names don't say are options, with the article's values.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from ddpm_jax.config import Choice, Config
from ddpm_jax.errors import UserError, require_whole
from ddpm_jax.models import AnnotatedUNetConfig
from ddpm_jax.models.layers import group_count
from ddpm_jax.weights.contract import Foreign
from ddpm_jax.weights.places import Layout, Place, merged_heads, places_of, pointwise
from ddpm_jax.weights.tensors import read_tensors

_HEADS, _GROUPS = 4, 8
_SCHEDULES = ("linear", "quadratic", "sigmoid")
_BLOCKS = {
    "resnet": {
        "conv_0": "block1.proj",
        "norm_0": "block1.norm",
        "conv_1": "block2.proj",
        "norm_1": "block2.norm",
    },
    "convnext": {
        "depthwise": "ds_conv",
        "norm_0": "net.0",
        "conv_0": "net.1",
        "norm_1": "net.3",
        "conv_1": "net.4",
    },
}
_IN_EVERY_BLOCK = {"condition": "mlp.1", "shortcut": "res_conv"}
_ATTENTION = {
    "norm": "fn.norm",
    "query": "fn.fn.to_qkv",
    "key": "fn.fn.to_qkv",
    "value": "fn.fn.to_qkv",
    "out": "fn.fn.to_out.0",
    "norm_out": "fn.fn.to_out.1",
}
_OTHERS = {
    "conv_in": "init_conv",
    "condition.time_in": "time_mlp.1",
    "condition.time_out": "time_mlp.3",
    "middle_block_0": "mid_block1",
    "middle_attention": "mid_attn",
    "middle_block_1": "mid_block2",
    "middle_attention.out": "mid_attn.fn.fn.to_out",
    "out_block": "final_conv.0",
    "conv_out": "final_conv.1",
}

DEPTHWISE = Layout(
    lambda x: [x[:, 0].transpose(1, 2, 0)], lambda own: own[0].transpose(2, 0, 1)[:, None]
)
"""[channels, 1, height, width] and [height, width, channels]."""
TRANSPOSED = Layout(
    lambda x: [x[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)],
    lambda own: own[0].transpose(2, 3, 0, 1)[:, :, ::-1, ::-1],
)
"""The kernel of PyTorch's transposed convolution [in, out, height, width], and ours turned over."""


def read(
    source: Path,
    *,
    image_size: Annotated[int, "Side of the square images. Required."],
    diffusion_steps: Annotated[int, "T of the training."] = 200,
    noise_schedule: Annotated[str, "Its name for the noise schedule."] = "linear",
) -> Foreign:
    """Reads a file of weights."""
    require_whole("--image_size", image_size, most=2**14)
    if noise_schedule not in _SCHEDULES:
        raise UserError(
            f"--noise_schedule is {noise_schedule}; it must be one of {', '.join(_SCHEDULES)}"
        )
    tensors = read_tensors(source)

    def at(module: str, axis: int) -> int:
        tensor = tensors.get(f"{module}.weight")
        if tensor is None or tensor.ndim <= axis:
            raise UserError(f"{source} has no {module}.weight of the article's Unet")
        return tensor.shape[axis]

    dim, channels, levels = at("time_mlp.1", 1), at("init_conv", 1), 0
    while any(name.startswith(f"downs.{levels}.") for name in tensors):
        levels += 1
    convnext = "downs.0.0.ds_conv.weight" in tensors
    last = "net.4" if convnext else "block2.proj"
    widths = [at(f"downs.{level}.0.{last}", 0) for level in range(levels)]
    if not widths or any(width % dim for width in widths):
        raise UserError(
            f"{source} has levels of {widths} channels; they must be multiples of {dim}, the width "
            "of the time embedding"
        )
    if not convnext and any(group_count(width, _GROUPS) != _GROUPS for width in widths):
        raise UserError(
            f"{source} has levels of {widths} channels, which don't make {_GROUPS} groups of two "
            "or more"
        )
    model = AnnotatedUNetConfig(
        dim=dim,
        multipliers=tuple(width // dim for width in widths),
        block="convnext" if convnext else "resnet",
        attention_bias="downs.0.2.fn.fn.to_qkv.bias" in tensors,
    )
    diffusion = {"timesteps": diffusion_steps, "schedule": noise_schedule, "prediction": "eps"}
    sample = {"sampler": "ddpm", "clipping": Choice("none")}
    data = {"image_size": (image_size, image_size), "channels": channels}
    return Foreign(data, model, diffusion, sample, tensors, _places)


def _places(config: Config, shapes: Any) -> Sequence[Place]:
    return unet_places(config.model, shapes)


def unet_places(model: Any, shapes: Mapping[str, Any]) -> list[Place]:
    """Returns the map of names for our network of these settings and shapes."""
    levels, layers = len(model.multipliers), _BLOCKS[model.block] | _IN_EVERY_BLOCK
    parts = {"block_0": "0", "block_1": "1", "attention": "2", "": "3"}

    def module(path: str) -> str:
        if path in _OTHERS:
            return _OTHERS[path]
        first, _, layer = path.partition(".")
        if found := re.fullmatch(r"(down|up)_(\d+)_?(.*)", first):
            way, level, part = found[1], int(found[2]), found[3]
            number = level if way == "down" else levels - 1 - level
            first = f"{way}s.{number}.{parts[part]}"
            if not part:  # What changes the size is a convolution itself.
                return first
        else:
            part, first = first, _OTHERS[first]
        return f"{first}.{(_ATTENTION if 'attention' in part else layers)[layer]}"

    def layout(name: str) -> Layout | None:
        if name.endswith("depthwise.kernel"):
            return DEPTHWISE
        if re.fullmatch(r"up_\d+\.conv\.kernel", name):
            return TRANSPOSED
        if re.search(r"\.(query|key|value)\.", name):
            return merged_heads(_HEADS, split_first=True, axes=2)
        if re.search(r"(attention\.out|shortcut|conv_out)\.kernel$", name):
            return pointwise(2)
        return None

    return places_of(shapes, module, layout)
