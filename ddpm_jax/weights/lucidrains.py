"""denoising-diffusion-pytorch: the `model-N.pt` of its Trainer, or a state dict of its `Unet`.

A Trainer's file has no settings, but the tables of its noise schedule and of its loss, which say
what they were. A state dict of the `Unet` alone has none: then they are options.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from ddpm_jax.config import Choice, Config
from ddpm_jax.diffusion import make_schedule
from ddpm_jax.errors import UserError, require_whole
from ddpm_jax.models import LucidrainsUNetConfig
from ddpm_jax.weights.contract import Foreign
from ddpm_jax.weights.places import Layout, Place, merged_heads, permuted, places_of, pointwise
from ddpm_jax.weights.tensors import Tensors, read_tensors

_PREDICTIONS = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}
_TRAINER = {"ema": "ema.ema_model.", "raw": "model."}
_MODULES = {
    "conv_in": "init_conv",
    "condition.time_in": "time_mlp.1",
    "condition.time_out": "time_mlp.3",
    "conv_out": "final_conv",
}
_BLOCKS = {
    "middle_block_0": "mid_block1",
    "middle_attention": "mid_attn",
    "middle_block_1": "mid_block2",
    "out_block": "final_res_block",
}
_LAYERS = {
    "conv_0": "block1.proj",
    "norm_0": "block1.norm",
    "conv_1": "block2.proj",
    "norm_1": "block2.norm",
    "condition": "mlp.1",
    "shortcut": "res_conv",
    "norm": "norm",
    "query": "to_qkv",
    "key": "to_qkv",
    "value": "to_qkv",
    "norm_out": "to_out.1",
}
_PARTS = {"block_0": "0", "block_1": "1", "attention": "2", "": "3"}

NORM = Layout(lambda x: [x.reshape(-1)], lambda own: own[0].reshape(1, -1, 1, 1))
"""[1, channels, 1, 1] and [channels]."""
FULL_MEMORY, LINEAR_MEMORY = (
    permuted((0, 2, 1, 3), (0, 2, 1, 3)),
    permuted((0, 3, 1, 2), (0, 2, 3, 1)),
)
"""[2, heads, rows, channels], or [2, heads, channels, rows], and [2, rows, heads, channels]."""

Objective = Literal["pred_noise", "pred_x0", "pred_v"]
_IF_BARE = "For a file without tables; a Trainer's file says it itself."


def read(
    source: Path,
    *,
    image_size: Annotated[int, "Side of the square images. Required."],
    params: Annotated[Literal["ema", "raw"], "Which parameters of a Trainer's file."] = "ema",
    timesteps: Annotated[int | None, f"T of the training, 1000. {_IF_BARE}"] = None,
    beta_schedule: Annotated[str | None, f"Its name, sigmoid. {_IF_BARE}"] = None,
    objective: Annotated[Objective | None, f"Its name, pred_v. {_IF_BARE}"] = None,
) -> Foreign:
    """Reads a file of weights."""
    require_whole("--image_size", image_size, most=2**14)
    tensors, tables = _parted(source, read_tensors(source), params)
    model, channels, inputs, outputs = _network(source, tensors)
    given = {"timesteps": timesteps, "beta_schedule": beta_schedule, "objective": objective}
    if tables:
        for name in (name for name, value in given.items() if value is not None):
            raise UserError(f"--{name} must be left out: the tables in {source} say it")
        diffusion = _told(source, tables)
    else:
        T = 1_000 if timesteps is None else timesteps
        require_whole("--timesteps", T)
        known = _schedules(T)
        if (beta_schedule or "sigmoid") not in known:
            raise UserError(
                f"--beta_schedule is {beta_schedule}; it must be one of {', '.join(known)}"
            )
        diffusion = {
            "timesteps": T,
            "schedule": known[beta_schedule or "sigmoid"],
            "prediction": _PREDICTIONS[objective or "pred_v"],
            "weighting": _EVEN_OVER_EPS,
        }
    sampler = Choice("ddpm")
    if inputs == 2 * channels:
        diffusion["condition"] = "self_conditioning"
    if outputs == 2 * channels:
        diffusion["objective"], sampler = "hybrid", Choice("ddpm", variance="learned")
    data = {"image_size": (image_size, image_size), "channels": channels}
    sample = {"sampler": sampler, "clipping": Choice("clip")}
    return Foreign(data, model, diffusion, sample, tensors, _places)


def _parted(source: Path, found: Tensors, params: str) -> tuple[Tensors, Tensors]:
    """Returns the tensors of the network by their names in it, and the tables beside it."""
    if any(name.startswith(_TRAINER["ema"]) for name in found):
        prefix = _TRAINER[params]
        found = {n.removeprefix(prefix): it for n, it in found.items() if n.startswith(prefix)}
    if "model.init_conv.weight" not in found:
        return found, {}
    network = {n.removeprefix("model."): it for n, it in found.items() if n.startswith("model.")}
    tables = {name: it for name, it in found.items() if not name.startswith("model.")}
    for name in ("betas", "alphas_cumprod", "loss_weight"):
        if name not in tables or tables[name].ndim != 1:
            raise UserError(f"{source} has no table {name} of a GaussianDiffusion")
    return network, tables


def _network(source: Path, tensors: Tensors) -> tuple[LucidrainsUNetConfig, int, int, int]:
    """Returns settings, channels of the pictures, and those that go into and out of the network."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != axes:
            raise UserError(f"{source} has no {name} of the Unet of denoising-diffusion-pytorch")
        return tensors[name].shape

    dim = shape("time_mlp.1.weight", 2)[1]
    first, inputs = shape("init_conv.weight", 4)[:2]
    outputs = shape("final_conv.weight", 4)[0]
    levels = 0
    while any(name.startswith(f"downs.{levels}.") for name in tensors):
        levels += 1
    last = levels - 1
    names = [f"downs.{level}.3{'' if level == last else '.1'}.weight" for level in range(levels)]
    widths = [first, *(shape(name, 4)[0] for name in names)]
    if levels == 0 or dim == 0 or first != dim or any(width % dim for width in widths):
        raise UserError(
            f"{source} has widths of {widths} channels; they must be multiples of {dim}, the width "
            "of the time embedding, and the first must be that"
        )
    full = [f"downs.{level}.2.to_out.weight" in tensors for level in range(levels)]
    sizes = set()
    for level, is_full in enumerate(full):
        _, heads, *rest = shape(f"downs.{level}.2.mem_kv", 4)
        sizes.add((heads, *(rest if is_full else reversed(rest))))
    if len(sizes) > 1:
        raise UserError(f"{source} has attention of other sizes in other levels: {sorted(sizes)}")
    ((heads, memory, per_head),) = sizes
    model = LucidrainsUNetConfig(
        dim=dim,
        multipliers=tuple(width // dim for width in widths[1:]),
        full_attention=tuple(level for level in range(levels) if full[level]),
        heads=heads,
        head_channels=per_head,
        memory=memory,
    )
    return model, min(inputs, outputs), inputs, outputs


# Each loss of theirs weighs all eps alike, unless it has a min-SNR weighting.
_EVEN_OVER_EPS = Choice("p2", gamma=0.0)


def _schedules(T: int) -> dict[str, Choice]:
    """Returns their noise schedules by their names: `linear` is that of 1000 steps, whatever T."""
    return {
        "linear": Choice("linear", beta_1=0.1 / T, beta_T=min(20 / T, 0.999)),
        "cosine": Choice("cosine"),
        "sigmoid": Choice("sigmoid_alpha_bar"),
    }


def _told(source: Path, tables: Tensors) -> dict[str, Any]:
    """Returns what the tables of a GaussianDiffusion say; UserError for those we don't have."""
    T, weight = len(tables["alphas_cumprod"]), np.asarray(tables["loss_weight"], np.float64)
    if T == 0 or weight.shape != (T,):
        raise UserError(f"{source}: its tables must have one length, the T of the training")
    for schedule in _schedules(T).values():
        alpha_bar = make_schedule(schedule.name, T, **schedule.options).alpha_bar[1:]
        if np.allclose(alpha_bar, tables["alphas_cumprod"], rtol=1e-3, atol=1e-6):
            break
    else:
        raise UserError(f"{source} has a noise schedule of its own; ours are those of its package")
    snr = alpha_bar / (1 - alpha_bar)
    factors = {"eps": np.ones(T), "x_0": snr, "v": alpha_bar}
    for prediction, factor in factors.items():
        # Without min-SNR the weight is the factor; with it, the factor times min(1, γ/SNR).
        share = weight / factor
        low = snr < 1
        if not np.allclose(share[low], 1, rtol=1e-2):
            continue
        gamma = share[0] * snr[0]
        capped = Choice("min_snr", gamma=float(f"{gamma:.3g}"))
        return {
            "timesteps": T,
            "schedule": schedule,
            "prediction": prediction,
            "weighting": capped if share[0] < 0.99 else _EVEN_OVER_EPS,
        }
    raise UserError(f"{source} has a loss_weight that no objective of its package has")


def _places(config: Config, shapes: Any) -> Sequence[Place]:
    return unet_places(config.model, shapes)


def unet_places(model: Any, shapes: Mapping[str, Any]) -> list[Place]:
    """Returns the map of names for our network of these settings and shapes."""
    last = len(model.multipliers) - 1

    def is_full(first: str) -> bool:
        return "norm_out" not in shapes[first]

    def module(path: str) -> str:
        if path in _MODULES:
            return _MODULES[path]
        first, _, layer = path.partition(".")
        if found := re.fullmatch(r"(down|up)_(\d+)_?(.*)", first):
            way, level, part = found[1], int(found[2]), found[3]
            theirs = f"{way}s.{level if way == 'down' else last - level}.{_PARTS[part]}"
            if not part:  # What changes the size comes second, after what moves the pixels.
                return theirs if level == (last if way == "down" else 0) else f"{theirs}.1"
        else:
            theirs = _BLOCKS[first]
        if layer == "out":
            return f"{theirs}.to_out" if is_full(first) else f"{theirs}.to_out.0"
        return f"{theirs}.{_LAYERS[layer]}" if layer else theirs

    def layout(name: str) -> Layout | None:
        if name.endswith(".scale"):
            return NORM
        if name.endswith(".memory"):
            return FULL_MEMORY if is_full(name.removesuffix(".memory")) else LINEAR_MEMORY
        if re.search(r"\.(query|key|value)\.", name):
            return merged_heads(model.heads, split_first=True, axes=2)
        if re.search(rf"(attention\.out|shortcut|conv_out|down_(?!{last}\.)\d+)\.kernel$", name):
            return pointwise(2)
        return None

    def renamed(place: Place) -> Place:
        ending = {"scale": "g", "memory": "mem_kv"}.get(place.params[0].rpartition(".")[2])
        if ending is None:
            return place
        return place._replace(tensor=f"{place.tensor.removesuffix('weight')}{ending}")

    return [renamed(place) for place in places_of(shapes, module, layout)]
