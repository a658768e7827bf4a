"""improved-diffusion and guided-diffusion: the state dict of a `UNetModel`, in a `.pt` file.

The file has no settings. What shapes and names don't say are options, by the names of the flags of
their scripts, and with the defaults that both programs share.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from ddpm_jax.config import Choice, Config
from ddpm_jax.errors import UserError, require_whole
from ddpm_jax.models import UNetConfig
from ddpm_jax.models.layers import group_count
from ddpm_jax.weights.contract import Foreign
from ddpm_jax.weights.places import (
    NO_CLASS_LEFT_OUT,
    Layout,
    Place,
    merged_heads,
    places_of,
    pointwise,
)
from ddpm_jax.weights.tensors import Tensors, read_tensors

GROUPS = 32

_BLOCK = {
    "norm_0": "in_layers.0",
    "conv_0": "in_layers.2",
    "condition": "emb_layers.1",
    "norm_1": "out_layers.0",
    "conv_1": "out_layers.3",
    "shortcut": "skip_connection",
}
_ATTENTION = {"norm": "norm", "query": "qkv", "key": "qkv", "value": "qkv", "out": "proj_out"}
_OTHERS = {
    "condition.time_in": "time_embed.0",
    "condition.time_out": "time_embed.2",
    "condition.label": "label_emb",
    "conv_in": "input_blocks.0.0",
    "middle_0_block": "middle_block.0",
    "middle_attention": "middle_block.1",
    "middle_1_block": "middle_block.2",
    "norm_out": "out.0",
    "conv_out": "out.2",
}


_RESCALED = (
    "Whether times count as 1000/T each. It must be said where T is not 1000: the default of "
    "improved-diffusion is True, that of guided-diffusion False."
)


def read(
    source: Path,
    *,
    image_size: Annotated[int, "Side of the square images. Required."],
    num_heads: Annotated[int, "Heads of each self-attention."] = 4,
    num_head_channels: Annotated[int, "Channels of each head; -1 for num_heads."] = -1,
    use_new_attention_order: Annotated[bool, "Whether all queries come first in qkv."] = False,
    diffusion_steps: Annotated[int, "T of the training."] = 1_000,
    noise_schedule: Annotated[str, "Its name for the noise schedule."] = "linear",
    rescale_timesteps: Annotated[bool | None, _RESCALED] = None,
) -> Foreign:
    """Reads a file of weights."""
    require_whole("--image_size", image_size, most=2**14)
    require_whole("--diffusion_steps", diffusion_steps)
    if noise_schedule not in ("linear", "cosine"):
        raise UserError(f"--noise_schedule is {noise_schedule}; it must be linear or cosine")
    if rescale_timesteps is None and diffusion_steps != 1_000:
        raise UserError(
            f"--diffusion_steps {diffusion_steps} needs --rescale_timesteps True, the default of "
            "improved-diffusion, or False, the default of guided-diffusion"
        )
    found = Shapes(read_tensors(source), source)
    inputs, outputs = found.at("input_blocks.0.0", 1), found.at("out.2", 0)
    widths, blocks, attention, residual = _levels(found, source, image_size)
    shift = found.at("middle_block.0.emb_layers.1", 0)
    per_head = None if num_head_channels == -1 else num_head_channels
    model = UNetConfig(
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=blocks,
        attention=tuple(attention),
        heads=num_heads if per_head is None else 1,
        head_channels=per_head,
        norm_groups=GROUPS,
        norm_epsilon=1e-5,
        scale_shift=shift == 2 * widths[-1],
        downsampling="symmetric",
        resampling="residual" if residual else "convolution",
        time_embedding="openai",
        time_scale=1_000 / diffusion_steps if rescale_timesteps else 1.0,
        num_classes=found.at("label_emb", 0) if "label_emb.weight" in found.tensors else 0,
    )
    # Their linear schedule is that of 1000 steps, whatever T is.
    linear = {"beta_1": 0.1 / diffusion_steps, "beta_T": 20 / diffusion_steps}
    diffusion: dict[str, Any] = {
        "timesteps": diffusion_steps,
        "schedule": Choice("cosine") if noise_schedule == "cosine" else Choice("linear", **linear),
        "prediction": "eps",
    }
    sampler = Choice("ddpm-beta")
    if outputs == 2 * inputs:  # learn_sigma: a variance between β̃ and β.
        diffusion["objective"], sampler = "hybrid", Choice("ddpm", variance="learned")
    sample = {"sampler": sampler, "clipping": Choice("clip")}
    data = {"image_size": (image_size, image_size), "channels": inputs}

    def places(config: Config, shapes: Any) -> Sequence[Place]:
        return unet_places(config.model, shapes, split_first=use_new_attention_order)

    return Foreign(data, model, diffusion, sample, found.tensors, places)


def _levels(
    found: "Shapes", source: Path, image_size: int
) -> tuple[list[int], int, list[int], bool]:
    """Returns the channels of each level, blocks a level, the sides of those with attention, and
    whether residual blocks resample; UserError for levels that the U-Net can't have."""
    blocks, levels, residual = found.levels()
    widths, attention = [], []
    for level in range(levels):
        block = f"output_blocks.{(levels - 1 - level) * (blocks + 1)}"
        widths.append(found.at(f"{block}.0.out_layers.3", 0))
        if f"{block}.1.qkv.weight" in found.tensors:
            attention.append(image_size >> level)
    channels = found.at("time_embed.0", 1)
    if widths[0] != channels or any(width % channels for width in widths):
        raise UserError(
            f"{source} has levels of {widths} channels; they must be multiples of {channels}, the "
            "width of the time embedding, and the first must be that"
        )
    if any(group_count(width, GROUPS) != GROUPS for width in widths):
        raise UserError(
            f"{source} has levels of {widths} channels, which don't make {GROUPS} groups of two or "
            "more"
        )
    return widths, blocks, attention, residual


class Shapes:
    """The tensors of a file, and what their names and shapes say about the network."""

    def __init__(self, tensors: Tensors, source: Path):
        self.tensors, self.source = tensors, source

    def at(self, module: str, axis: int) -> int:
        """Returns the length of an axis of a module's weight; UserError if it has none."""
        tensor = self.tensors.get(f"{module}.weight")
        if tensor is None or tensor.ndim <= axis:
            raise UserError(f"{self.source} has no {module}.weight of a UNetModel")
        return tensor.shape[axis]

    def levels(self) -> tuple[int, int, bool]:
        """Returns blocks per level, levels, and whether residual blocks change the size."""
        pattern = r"output_blocks\.(\d+)\.([12])\.(conv|in_layers\.0)\.weight"
        ups = {
            int(found[1]): found[3] != "conv"
            for name in self.tensors
            if (found := re.fullmatch(pattern, name))
        }
        numbers = [
            int(it[1]) for n in self.tensors if (it := re.match(r"output_blocks\.(\d+)\.", n))
        ]
        count = max(numbers, default=-1) + 1
        each = min(ups, default=count - 1) + 1
        if each < 2 or count % each:
            raise UserError(f"{self.source} has {count} output_blocks, as no UNetModel has")
        return each - 1, count // each, any(ups.values())


def unet_places(model: Any, shapes: Mapping[str, Any], *, split_first: bool) -> list[Place]:
    """Returns the map of names for our U-Net with parameters of these shapes.

    `split_first` says that all queries come first where queries, keys and values are merged.
    """
    modules, number = dict(_OTHERS), 1
    levels, convolves = len(model.multipliers), model.resampling == "convolution"
    for level in range(levels):
        for i in range(model.blocks):
            modules[f"down_{level}_{i}_block"] = f"input_blocks.{number}.0"
            modules[f"down_{level}_{i}_attention"] = f"input_blocks.{number}.1"
            number += 1
        modules[f"down_{level}"] = f"input_blocks.{number}.0" + ".op" * convolves
        number += 1
    number = 0
    for level in reversed(range(levels)):
        for i in range(model.blocks + 1):
            modules[f"up_{level}_{i}_block"] = f"output_blocks.{number}.0"
            modules[f"up_{level}_{i}_attention"] = f"output_blocks.{number}.1"
            number += 1
        after = 1 + (f"up_{level}_{model.blocks}_attention" in shapes)
        modules[f"up_{level}"] = f"output_blocks.{number - 1}.{after}" + ".conv" * convolves

    def module(path: str) -> str:
        if path in modules:
            return modules[path]
        first, layer = path.split(".")
        return f"{modules[first]}.{(_ATTENTION if 'attention' in first else _BLOCK)[layer]}"

    def layout(name: str) -> Layout | None:
        if name.endswith("shortcut.kernel"):
            return pointwise(2)
        if name.endswith("attention.out.kernel"):
            return pointwise(1)
        if name.endswith("label.embedding"):
            return NO_CLASS_LEFT_OUT
        if re.search(r"attention\.(query|key|value)\.", name):
            first, layer = name.split(".")[:2]
            inner = shapes[first][layer]["bias"].shape[0]
            heads = inner // model.head_channels if model.head_channels else model.heads
            return merged_heads(heads, split_first=split_first, axes=1)
        return None

    return places_of(shapes, module, layout)
