"""diffusers: a folder of a `DDPMPipeline`, flat or with `unet/` and `scheduler/`.

Fields, defaults and names are those of `UNet2DModel` and `DDPMScheduler` in diffusers 0.42.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from ddpm_jax.checkpoints.manifest import by_name
from ddpm_jax.config import Choice, Config, SampleConfig
from ddpm_jax.errors import UserError
from ddpm_jax.models import UNetConfig
from ddpm_jax.models.layers import group_count
from ddpm_jax.weights.contract import Foreign, numbered
from ddpm_jax.weights.fields import Fields
from ddpm_jax.weights.places import (
    NO_CLASS_LEFT_OUT,
    SAME,
    Layout,
    Place,
    places_of,
    pointwise,
    to_tensors,
)
from ddpm_jax.weights.tensors import read_tensors, write_safetensors

WEIGHTS = "diffusion_pytorch_model"
VERSION = "0.42.0"
"""The version whose fields are written."""

# --- the map of names -----------------------------------------------------------------------------

# Our modules and theirs; diffusers counts the levels on the way up from the smallest image.
_MODULES = (
    (r"down_(\d+)_(\d+)_block", "down_blocks.{}.resnets.{}"),
    (r"down_(\d+)_(\d+)_attention", "down_blocks.{}.attentions.{}"),
    (r"down_(\d+)", "down_blocks.{}.downsamplers.0"),
    (r"middle_(\d)_block", "mid_block.resnets.{}"),
    (r"middle_attention", "mid_block.attentions.0"),
    (r"up_(\d+)_(\d+)_block", "up_blocks.{}.resnets.{}"),
    (r"up_(\d+)_(\d+)_attention", "up_blocks.{}.attentions.{}"),
    (r"up_(\d+)", "up_blocks.{}.upsamplers.0"),
    (r"condition", "time_embedding"),
    (r"norm_out", "conv_norm_out"),
    (r"(conv_in|conv_out)", "{}"),
)
_LAYERS = {
    "norm_0": "norm1",
    "conv_0": "conv1",
    "condition": "time_emb_proj",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
    "time_in": "linear_1",
    "time_out": "linear_2",
}
# What the layers of attention were called before diffusers 0.15.
_OLD_LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _their_module(module: str, levels: int) -> str:
    first, *layers = module.split(".")
    if module == "condition.label":
        return "class_embedding"
    for pattern, name in _MODULES:
        found = re.fullmatch(pattern, first)
        if found:
            numbers = list(found.groups())
            if first.startswith("up_"):
                numbers[0] = str(levels - 1 - int(numbers[0]))
            resampler = pattern in (r"down_(\d+)", r"up_(\d+)") and not layers
            own = ["conv"] if resampler else [_LAYERS[layer] for layer in layers]
            return ".".join([name.format(*numbers), *own])
    raise KeyError(module)


def unet_places(shapes: Any, *, null_class: bool = True) -> list[Place]:
    """Returns the map of names for our U-Net with parameters of these shapes.

    `null_class` says whether their table of labels has our last row, "no class".
    """
    levels = sum(bool(re.fullmatch(r"down_\d+_0_block", name)) for name in shapes)

    def layout(name: str) -> Layout | None:
        if name.endswith("shortcut.kernel"):
            return pointwise(2)
        if name.endswith("label.embedding"):
            return SAME if null_class else NO_CLASS_LEFT_OUT
        return None

    return places_of(shapes, lambda module: _their_module(module, levels), layout)


# --- in -------------------------------------------------------------------------------------------

_RENAMED_UNET = {
    "resnet_eps": "norm_eps",
    "downscale_freq_shift": "freq_shift",
    "image_size": "sample_size",
    "num_res_blocks": "layers_per_block",
    "down_blocks": "down_block_types",
    "up_blocks": "up_block_types",
    "block_channels": "block_out_channels",
    "resnet_num_groups": "norm_num_groups",
    "num_head_channels": "attention_head_dim",
}
_RENAMED_SCHEDULER = {"timesteps": "num_train_timesteps"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "quadratic", "sigmoid": "sigmoid"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
_VARIANCES = {"fixed_small": "ddpm", "fixed_small_log": "ddpm", "fixed_large": "ddpm-beta"}


def read(
    source: Path,
    *,
    null_class: Annotated[bool, "Whether the last class means no class."] = False,
) -> Foreign:
    """Reads the folder of a pipeline."""
    unet = next((f for f in (source / "unet", source) if (f / "config.json").is_file()), None)
    if unet is None:
        why = "has no config.json" if source.is_dir() else "is no folder"
        raise UserError(
            f"{source} {why}; name the folder of a pipeline, downloaded as with "
            "`hf download google/ddpm-cifar10-32 --local-dir FOLDER`"
        )
    data, model = _read_unet(Fields(unet / "config.json", _RENAMED_UNET), int(null_class))
    found = (source / "scheduler", source)
    scheduler = next((f for f in found if (f / "scheduler_config.json").is_file()), None)
    if scheduler is None:
        raise UserError(f"{source} has no scheduler_config.json, which says what its noise is")
    fields = Fields(scheduler / "scheduler_config.json", _RENAMED_SCHEDULER)
    diffusion, sample = _read_scheduler(fields)
    for suffix in (".safetensors", ".bin"):
        if (unet / f"{WEIGHTS}{suffix}").is_file():
            break
    else:
        raise UserError(f"{unet} has neither {WEIGHTS}.safetensors nor {WEIGHTS}.bin")
    tensors = {}
    for name, tensor in read_tensors(unet / f"{WEIGHTS}{suffix}").items():
        head, _, tail = name.rpartition(".")
        before, _, layer = head.rpartition(".")
        old = layer in _OLD_LAYERS and "attentions." in name
        tensors[f"{before}.{_OLD_LAYERS[layer]}.{tail}" if old else name] = tensor

    def places(config: Config, shapes: Any) -> list[Place]:
        return unet_places(shapes, null_class=null_class)

    return Foreign(data, model, diffusion, sample, tensors, places)


def _read_unet(fields: Fields, null_classes: int) -> tuple[dict[str, Any], UNetConfig]:
    fields.only("_class_name", "UNet2DModel", "UNet2DModel")
    size = fields.take("sample_size", None, int | tuple[int, int])
    channels = fields.take("in_channels", 3, int)
    widths = fields.take("block_out_channels", (224, 448, 672, 896), tuple[int, ...])
    attention, residual, convolution = _levels(fields, widths)
    need = f"{channels}, as in_channels, or a network of another objective"
    outputs = fields.take("out_channels", 3, int)
    if outputs != channels:
        raise fields.error("out_channels", outputs, need)
    fields.only("center_input_sample", False, False)
    fields.only("time_embedding_type", "positional", "positional")
    fields.only("time_embedding_dim", None, None, 4 * widths[0])
    fields.only("mid_block_type", "UNetMidBlock2D", "UNetMidBlock2D")
    fields.only("mid_block_scale_factor", 1, 1, 1.0)
    fields.only("act_fn", "silu", "silu", "swish")
    fields.only("class_embed_type", None, None)
    fields.ignore("num_train_timesteps")  # It is that of a learned embedding of times.
    flip = fields.take("flip_sin_to_cos", True, bool)
    shift = fields.take("freq_shift", 0, int | float)
    if (flip, shift) not in ((False, 1), (True, 0)):
        need = f"{0 if flip else 1} beside flip_sin_to_cos {flip}"
        raise fields.error("freq_shift", shift, need)
    scale_shift = fields.only("resnet_time_scale_shift", "default", "default", "scale_shift")
    groups = fields.take("norm_num_groups", 32, int)
    if scale_shift == "scale_shift":  # Without it the middle has an attention without a norm.
        fields.only("attn_norm_num_groups", None, groups)
    else:
        fields.only("attn_norm_num_groups", None, None, groups)
    for width in widths:
        if group_count(width, groups) != groups:
            need = f"a number of groups of two channels or more, in each of {list(widths)}"
            raise fields.error("norm_num_groups", groups, need)
    if residual and convolution:
        raise fields.error("down_block_types", "of both kinds", "all Resnet… or none of them")
    classes = fields.take("num_class_embeds", None, int | None)
    padding = fields.only("downsample_padding", 1, 0, 1)
    model = UNetConfig(
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=fields.take("layers_per_block", 2, int),
        attention=tuple((max(size) if isinstance(size, tuple) else size) >> i for i in attention),
        head_channels=fields.take("attention_head_dim", 8, int | None),
        middle_attention=fields.take("add_attention", True, bool),
        dropout=fields.take("dropout", 0.0, float),
        norm_groups=groups,
        norm_epsilon=fields.take("norm_eps", 1e-5, float),
        scale_shift=scale_shift == "scale_shift",
        downsampling="symmetric" if padding else "same",
        resampling="residual" if residual else "convolution",
        time_embedding="openai" if flip else "ho",
        num_classes=max(0, (classes or 0) - null_classes),
    )
    fields.done()
    shape = size if isinstance(size, tuple) else (size, size)
    return {"image_size": shape, "channels": channels}, model


def _levels(fields: Fields, widths: tuple[int, ...]) -> tuple[list[int], bool, bool]:
    """Returns the levels with attention, and whether residual blocks or convolutions resample."""
    kinds = ("conv", "resnet")
    down_kind = fields.only("downsample_type", "conv", *kinds)
    up_kind = fields.only("upsample_type", "conv", *kinds)
    default = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    down = fields.take("down_block_types", default, tuple[str, ...])
    default = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    up = fields.take("up_block_types", default, tuple[str, ...])
    if not len(widths) == len(down) == len(up) > 0:
        need = f"as many as down_block_types, {len(down)}, and up_block_types, {len(up)}"
        raise fields.error("block_out_channels", list(widths), need)
    if any(width < 1 or width % max(1, widths[0]) for width in widths):
        raise fields.error("block_out_channels", list(widths), "multiples of the first")
    attention, residual, convolution = [], False, False
    for level, (one, other) in enumerate(zip(down, reversed(up), strict=True)):
        known = {
            ("DownBlock2D", "UpBlock2D"): (False, "conv", "conv"),
            ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"): (False, "resnet", "resnet"),
            ("AttnDownBlock2D", "AttnUpBlock2D"): (True, down_kind, up_kind),
        }
        if (one, other) not in known:
            need = f"{', '.join(f'{a} with {b}' for a, b in known)} in up_block_types"
            raise fields.error("down_block_types", f"{one} with {other}", need)
        attends, shrinks, grows = known[one, other]
        if attends:
            attention.append(level)
        # The smallest level is not halved, and the largest is not doubled.
        used = [shrinks] * (level < len(widths) - 1) + [grows] * (level > 0)
        residual |= "resnet" in used
        convolution |= "conv" in used
    return attention, residual, convolution


def _read_scheduler(fields: Fields) -> tuple[dict[str, Any], dict[str, Any]]:
    kind = fields.only("_class_name", None, "DDPMScheduler", "DDIMScheduler")
    ddim = kind == "DDIMScheduler"
    fields.only("trained_betas", None, None)
    name = fields.only("beta_schedule", "linear", *_SCHEDULES, "squaredcos_cap_v2")
    first, last = (
        fields.take(f"beta_{end}", value, float) for end, value in (("start", 1e-4), ("end", 0.02))
    )
    if name == "squaredcos_cap_v2":
        schedule = Choice("cosine", s=0.008)
    else:
        schedule = Choice(_SCHEDULES[name], beta_1=first, beta_T=last)
    fields.only("rescale_betas_zero_snr", False, False)
    fields.only("thresholding", False, False)
    fields.ignore("dynamic_thresholding_ratio", "sample_max_value")  # Those of thresholding.
    # All T steps are the same in each spacing, and so are they without an offset.
    fields.only("timestep_spacing", "leading", "leading", "linspace", "trailing")
    fields.only("steps_offset", 0, 0)
    fields.only("predict_epsilon", True, True)
    fields.ignore("tensor_format")
    prediction = fields.only("prediction_type", "epsilon", *_PREDICTIONS)
    clipped = fields.take("clip_sample", True, bool)
    limit = fields.take("clip_sample_range", 1.0, float)
    if ddim:
        fields.only("set_alpha_to_one", True, True)
        sampler = "ddim"
    else:
        sampler = _VARIANCES[fields.only("variance_type", "fixed_small", *_VARIANCES)]
    diffusion = {
        "schedule": schedule,
        "timesteps": fields.take("num_train_timesteps", 1_000, int),
        "prediction": _PREDICTIONS[prediction],
    }
    clipping = Choice("clip", low=-limit, high=limit) if clipped else Choice("none")
    fields.done()
    return diffusion, {"sampler": sampler, "clipping": clipping}


# --- out ------------------------------------------------------------------------------------------


def write(config: Config, class_names: Sequence[str], params: Any, folder: Path) -> Sequence[str]:
    """Writes the folder of a DDPMPipeline; UserError for what UNet2DModel can't compute."""
    unet = unet_config(config, params)
    scheduler, notes = _scheduler_config(config)
    # A network that never saw "no class" has nothing in that row.
    places = unet_places(params, null_class=config.train.label_dropout > 0)
    tensors = to_tensors(places, params)
    write_safetensors(folder / "unet" / f"{WEIGHTS}.safetensors", tensors, {"format": "pt"})
    version = {"_diffusers_version": VERSION}
    index = {
        "_class_name": "DDPMPipeline",
        **version,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    for name, values in (
        ("model_index.json", index),
        ("unet/config.json", {"_class_name": "UNet2DModel", **version, **unet}),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "DDPMScheduler", **version, **scheduler},
        ),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")
    return (*notes, *numbered(class_names))


def unet_config(config: Config, params: Any) -> dict[str, Any]:
    """Returns the settings of the UNet2DModel that is our network."""
    model, shape = config.model, config.data.example_shape
    if not isinstance(model, UNetConfig) or model.kind != "unet":
        raise _no_place("model.kind", model.kind, "unet")
    if config.diffusion.condition.name != "nothing":
        raise _no_place("diffusion.condition", config.diffusion.condition.name, "nothing")
    if model.time_scale != 1:
        raise _no_place("model.time_scale", model.time_scale, "1")
    if config.diffusion.learned_variance is not None:
        raise _no_place(
            "diffusion.objective", config.diffusion.objective.name, "without a variance"
        )
    widths = [model.channels * multiplier for multiplier in model.multipliers]
    attends = [max(shape[:2]) >> level in model.attention for level in range(len(widths))]
    heads = {
        model.head_channels or width // model.heads
        for width, attend in zip(widths, [*attends[:-1], True], strict=True)
        if attend
    }
    one = model.heads == 1 and model.head_channels is None
    if len(heads) > 1 and not one:
        need = "1, or one of as many channels at each level; set model.head_channels"
        raise _no_place("model.heads", model.heads, need)
    residual = model.resampling == "residual"
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    plain = plain if residual else ("DownBlock2D", "UpBlock2D")
    kinds = [("AttnDownBlock2D", "AttnUpBlock2D") if each else plain for each in attends]
    classes = model.num_classes and model.num_classes + (config.train.label_dropout > 0)
    resample = "resnet" if residual else "conv"
    group = _groups(model.norm_groups, params)
    return {
        "sample_size": shape[0] if shape[0] == shape[1] else list(shape[:2]),
        "in_channels": shape[2],
        "out_channels": shape[2],
        "block_out_channels": widths,
        "layers_per_block": model.blocks,
        "down_block_types": [down for down, _ in kinds],
        "up_block_types": [up for _, up in reversed(kinds)],
        "downsample_type": resample,
        "upsample_type": resample,
        "downsample_padding": int(model.downsampling == "symmetric"),
        "attention_head_dim": None if one else heads.pop(),
        "add_attention": model.middle_attention,
        "norm_num_groups": group,
        "attn_norm_num_groups": group if model.scale_shift else None,
        "norm_eps": model.norm_epsilon,
        "resnet_time_scale_shift": "scale_shift" if model.scale_shift else "default",
        "flip_sin_to_cos": model.time_embedding == "openai",
        "freq_shift": int(model.time_embedding == "ho"),
        "dropout": model.dropout,
        "num_class_embeds": classes or None,
    }


def _groups(most: int, params: Any) -> int:
    """Returns the number of groups of each normalisation; UserError if they are not alike."""
    norms = {leaf.size for name, leaf in by_name(params).items() if name.endswith(".scale")}
    counts = {group_count(width, most) for width in norms}
    if len(counts) == 1:
        return counts.pop()
    fits = max(n for n in range(1, most) if {group_count(width, n) for width in norms} == {n})
    widths = ", ".join(map(str, sorted(norms)))
    raise _no_place("model.norm_groups", most, f"the same for channels {widths}; train with {fits}")


def _scheduler_config(config: Config) -> tuple[dict[str, Any], list[str]]:
    diffusion, sample, notes = config.diffusion, config.sample, []
    for setting, plain in {"shift": 1.0, "zero_terminal_snr": False}.items():
        if getattr(diffusion, setting) != plain:
            raise _no_place(f"diffusion.{setting}", getattr(diffusion, setting), f"{plain}")
    name, options = diffusion.schedule.name, diffusion.schedule.options
    theirs = {ours: their for their, ours in _SCHEDULES.items()}
    betas: dict[str, Any] = {}
    if name in theirs and set(options) == {"beta_1", "beta_T"}:
        betas = {"beta_schedule": theirs[name]}
        betas |= {"beta_start": options["beta_1"], "beta_end": options["beta_T"]}
    elif (name, options) == ("cosine", {"s": 0.008}):
        betas = {"beta_schedule": "squaredcos_cap_v2"}
    else:
        raise _no_place("diffusion.schedule", str(diffusion.schedule), "one with a name there")
    sampler = sample.sampler
    large = sampler.name == "ddpm-beta" or sampler.options.get("variance") == "beta"
    if sampler.name not in ("ddpm", "ddpm-beta"):
        notes.append(
            f"sample.sampler is {sampler.name}; the folder's DDPMScheduler has all "
            f"{diffusion.timesteps} steps of ddpm"
        )
    default = SampleConfig()
    left = [
        f"sample.{name} = {getattr(sample, name)}"
        for name in ("steps", "grid", "guidance", "guidance_interval", "negative_label")
        if getattr(sample, name) != getattr(default, name)
    ]
    if left:
        notes.append(f"left out, as a DDPMPipeline has no place for it: {', '.join(left)}")
    clip = sample.clipping
    limit = clip.options.get("high", 1.0)
    if clip.name not in ("none", "clip") or clip.options.get("low", -limit) != -limit:
        raise _no_place("sample.clipping", str(clip), "none, or clip with a low of -high")
    predictions = {ours: their for their, ours in _PREDICTIONS.items()}
    return {
        "num_train_timesteps": diffusion.timesteps,
        **betas,
        "variance_type": "fixed_large" if large else "fixed_small",
        "clip_sample": clip.name == "clip",
        "clip_sample_range": limit,
        "prediction_type": predictions[diffusion.prediction.name],
    }, notes


def _no_place(name: str, value: Any, need: str) -> UserError:
    return UserError(f"{name} is {value}; for diffusers it must be {need}")
