"""Every setting of a run: frozen, typed, checked when built, JSON both ways.

A file in `configs/` holds `get_config() -> Config`, written as its differences from the defaults
here; the command line overrides any setting by its dotted name (`--train.steps 200`). An impossible
setting or combination raises `UserError` here, before anything is read or compiled.
"""

import dataclasses
import importlib.util
import json
import math
import sys
import traceback
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ddpm_jax.errors import UserError, nearest


def _require(ok: bool, name: str, value: Any, need: str) -> None:
    if not ok:
        raise UserError(f"{name} is {value!r}; it must be {need}")


def check_seed(seed: int) -> None:
    """Raises UserError for a seed that is no 32-bit number."""
    _require(0 <= seed < 2**32, "seed", seed, "in 0 … 4294967295")


def _require_row(name: str, value: str, table: typing.Iterable[str]) -> None:
    rows = sorted(table)
    _require(value in rows, name, value, f"one of {', '.join(rows)}{nearest(value, rows)}")


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DigitsData:
    """scikit-learn's 1,797 real handwritten digits, 8×8 in 17 grey levels, ten classes."""

    kind: ClassVar[str] = "digits"
    shape: ClassVar[tuple[int, ...]] = (8, 8, 1)
    flip: bool = False
    """Mirror half of the images left to right, at random."""


@dataclass(frozen=True, kw_only=True)
class PointsData:
    """Points of a two-dimensional figure in a table that is the same for every seed of a run."""

    kind: ClassVar[str] = "points"
    flip: ClassVar[bool] = False
    figure: Literal["swiss_roll", "s_curve", "moons", "circles", "checkerboard"] = "swiss_roll"
    size: int = 10_000
    """How many points the table holds."""
    noise: float = 0.1
    """Standard deviation of the noise around the figure, before it is scaled."""
    table: int = 0
    """Which of the figure's tables: another number, and all points are fresh."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (2,)

    def __post_init__(self):
        _require(self.size >= 1, "data.size", self.size, "at least 1")
        _require(self.noise >= 0, "data.noise", self.noise, "0 or more")
        _require(0 <= self.table < 2**32, "data.table", self.table, "in 0 … 4294967295")


@dataclass(frozen=True, kw_only=True)
class _Images:
    image_size: tuple[int, int] = (32, 32)
    """Height and width of an example; pictures of another size are resized and cropped."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 red-green-blue, 4 with transparency."""
    flip: bool = False
    """Mirror half of the images left to right, at random."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.image_size, self.channels)

    def __post_init__(self):
        _require(min(self.image_size) >= 1, "data.image_size", self.image_size, "at least 1 1")


@dataclass(frozen=True, kw_only=True)
class TfdsData(_Images):
    """An image data set of tensorflow-datasets, prepared on disk and read without TensorFlow."""

    kind: ClassVar[str] = "tfds"
    name: str = "cifar10"
    """NAME or NAME/CONFIG, and :VERSION behind it where the newest is not meant."""
    split: str = "train"
    """A split, a slice of one (train[:90%]), or a sum of them (train+test)."""
    data_dir: str | None = None
    """Where TFDS keeps its data; else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""


@dataclass(frozen=True, kw_only=True)
class FolderData(_Images):
    """A folder of pictures; its subfolders, where all pictures lie in some, are the classes."""

    kind: ClassVar[str] = "folder"
    path: str = ""
    """The folder; it has to be given."""


@dataclass(frozen=True, kw_only=True)
class PictureData:
    """One picture, of any size and shape: each example of a batch is that picture."""

    kind: ClassVar[str] = "picture"
    flip: ClassVar[bool] = False
    path: str | None = None
    """The picture's file; None for scikit-learn's flower.jpg."""
    image_size: tuple[int, int] | None = None
    """Height and width to scale and crop it to; None for its own."""
    channels: Literal[1, 3, 4] = 3
    """1 grey, 3 red-green-blue, 4 with transparency."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Raises UserError while the size is left to the picture (see ddpm_jax.data.resolve)."""
        if self.image_size is None:
            mend = "let ddpm_jax.data.resolve(config) read the picture's, or give one"
            raise UserError(f"data.image_size is None; {mend}")
        return (*self.image_size, self.channels)

    def __post_init__(self):
        size = self.image_size
        good = size is None or min(size) >= 1
        _require(good, "data.image_size", size, "at least 1 1, or None for the picture's own")


DataConfig = DigitsData | PointsData | TfdsData | FolderData | PictureData


# --- network ------------------------------------------------------------------------------------


def _check_halvings(shape: tuple[int, ...], multipliers: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise UserError(f"model: a U-Net needs images, and the data's examples are {shape}")
    from ddpm_jax.models.unet import unet_divisor

    height, width, _ = shape
    levels, divisor = len(multipliers), unet_divisor(multipliers)
    if height % divisor or width % divisor:
        near = [max(divisor, round(side / divisor) * divisor) for side in (height, width)]
        raise UserError(
            f"model.multipliers: {levels} levels halve the image {levels - 1} times, and "
            f"{height}×{width} is not divisible by {divisor}; use fewer levels, or "
            f"images of {near[0]}×{near[1]}"
        )


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The paper's U-Net (Ho et al. 2020, appendix B); the defaults are its CIFAR-10 network."""

    kind: ClassVar[str] = "unet"
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in units of `channels`; each level halves height and width."""
    blocks: int = 2
    """Residual blocks a level on the way down (one more on the way up)."""
    attention: tuple[int, ...] = (16,)
    """Levels with self-attention, each named by the longer side of its image."""
    heads: int = 1
    dropout: float = 0.0
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self):
        _require(self.channels >= 4, "model.channels", self.channels, "at least 4")
        good = len(self.multipliers) > 0 and min(self.multipliers) >= 1
        _require(good, "model.multipliers", self.multipliers, "one whole number ≥ 1 a level")
        _require(self.blocks >= 1, "model.blocks", self.blocks, "at least 1")
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        _require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        good = self.heads >= 1 and all(width % self.heads == 0 for width in widths)
        _require(good, "model.heads", self.heads, f"a divisor of each level's channels {widths}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        _check_halvings(shape, self.multipliers)
        sides = [max(shape[:2]) // 2**level for level in range(len(self.multipliers))]
        absent = sorted(set(self.attention) - set(sides))
        if absent:
            raise UserError(
                f"model.attention is {list(self.attention)}, and no level's longer side is "
                f"{absent[0]}; the levels have {', '.join(map(str, sides))}"
            )


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """An MLP whose layers are scaled by a table of T times; the defaults are for points."""

    kind: ClassVar[str] = "mlp"
    width: int = 128
    """Features of each hidden layer."""
    layers: int = 3
    """Hidden layers."""
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""

    def __post_init__(self):
        _require(self.width >= 1, "model.width", self.width, "at least 1")
        _require(self.layers >= 1, "model.layers", self.layers, "at least 1")
        _require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Takes examples of any shape: it flattens them."""


@dataclass(frozen=True, kw_only=True)
class StepUNetConfig:
    """A small U-Net that sees the time as a plane beside x_t; the defaults are document 002's."""

    kind: ClassVar[str] = "step_unet"
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `channels`; each level halves height and width."""
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""

    def __post_init__(self):
        _require(self.channels >= 1, "model.channels", self.channels, "at least 1")
        good = len(self.multipliers) > 0 and min(self.multipliers) >= 1
        _require(good, "model.multipliers", self.multipliers, "one whole number ≥ 1 a level")
        _require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        _check_halvings(shape, self.multipliers)


@dataclass(frozen=True, kw_only=True)
class SmallUNetConfig:
    """A U-Net for one picture, small enough for a CPU; the defaults have 395,763 parameters."""

    kind: ClassVar[str] = "small_unet"
    channels: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of the picture's own size, then of each level; a level halves height and width."""
    time_dim: int = 16
    """Entries of the time's sinusoidal table."""
    groups: int = 4
    """Groups of channels that are normalised together, where there are channels enough."""
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""

    def __post_init__(self):
        good = len(self.channels) >= 2 and min(self.channels) >= 1
        _require(good, "model.channels", self.channels, "two or more whole numbers ≥ 1")
        _require(self.time_dim >= 4, "model.time_dim", self.time_dim, "at least 4")
        _require(self.groups >= 1, "model.groups", self.groups, "at least 1")
        _require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for points; images of any size are padded as needed."""
        if len(shape) != 3:
            raise UserError(f"model: a U-Net needs images, and the data's examples are {shape}")


@dataclass(frozen=True, kw_only=True)
class AnnotatedUNetConfig:
    """The annotated diffusion model's U-Net; the defaults are document 004's for Fashion-MNIST."""

    kind: ClassVar[str] = "annotated_unet"
    dim: int = 28
    """Channels of the first level; a quarter of the time embedding's."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `dim`; each level halves height and width."""
    block: Literal["resnet", "convnext"] = "convnext"
    """What the levels are built of, two of them a level."""
    attention_bias: bool = False
    """Whether query, key and value of the linear attention have a bias."""
    dropout: float = 0.0
    num_classes: int = 0
    """0 for a network without labels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, losses and diffusion stay float32."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self):
        _require(self.dim >= 4, "model.dim", self.dim, "at least 4")
        good = len(self.multipliers) > 0 and min(self.multipliers) >= 1
        _require(good, "model.multipliers", self.multipliers, "one whole number ≥ 1 a level")
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        _require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 or more")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises UserError if examples of this shape can't go through the levels."""
        _check_halvings(shape, self.multipliers)


ModelConfig = UNetConfig | MlpConfig | StepUNetConfig | SmallUNetConfig | AnnotatedUNetConfig


# --- diffusion, optimizer, loop, sampling, devices ----------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The forward process and what the network learns of it."""

    schedule: str = "linear"
    """linear, quadratic, sigmoid or cosine."""
    timesteps: int = 1000
    """T: how many noise steps lie between data and noise."""
    beta_1: float = 1e-4
    """First variance of the linear, quadratic and sigmoid schedules."""
    beta_T: float = 0.02
    """Last variance of the linear, quadratic and sigmoid schedules."""
    s: float = 0.008
    """Offset of the cosine schedule."""
    prediction: str = "eps"
    """What the network predicts: eps, x_0 or v."""
    loss: str = "l2"
    """l1, l2 or huber."""
    weighting: str = "none"
    """How the loss is weighted over t: none, min_snr or p2."""
    min_snr_gamma: float = 5.0
    p2_gamma: float = 1.0
    p2_k: float = 1.0

    def __post_init__(self):
        from ddpm_jax.diffusion import (
            LOSSES,
            PARAMETERIZATIONS,
            SCHEDULES,
            WEIGHTINGS,
            make_schedule,
        )

        _require_row("diffusion.schedule", self.schedule, SCHEDULES)
        _require_row("diffusion.prediction", self.prediction, PARAMETERIZATIONS)
        _require_row("diffusion.loss", self.loss, LOSSES)
        _require_row("diffusion.weighting", self.weighting, WEIGHTINGS)
        _require(self.timesteps >= 1, "diffusion.timesteps", self.timesteps, "at least 1")
        for name in ("beta_1", "beta_T"):
            value = getattr(self, name)
            _require(0 < value < 1, f"diffusion.{name}", value, "between 0 and 1")
        last = f"at least beta_1, which is {self.beta_1}"
        _require(self.beta_1 <= self.beta_T, "diffusion.beta_T", self.beta_T, last)
        _require(0 < self.s < 1, "diffusion.s", self.s, "between 0 and 1")
        for name in ("min_snr_gamma", "p2_k"):
            _require(getattr(self, name) > 0, f"diffusion.{name}", getattr(self, name), "above 0")
        _require(self.p2_gamma >= 0, "diffusion.p2_gamma", self.p2_gamma, "0 or more")
        settings = {"beta_1": self.beta_1, "beta_T": self.beta_T, "s": self.s}
        try:
            make_schedule(self.schedule, self.timesteps, **settings)
        except ValueError as error:
            raise UserError(f"diffusion.schedule {self.schedule}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam or AdamW, its learning rate over time, and the clipping of gradients."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 2e-4
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate from the warm-up's end to 0 at the last step."""
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    """AdamW only."""
    clip: float | None = 1.0
    """Largest global norm of the gradient; None for no limit."""

    def __post_init__(self):
        rate = self.learning_rate
        _require(0 < rate < math.inf, "optimizer.learning_rate", rate, "above 0")
        _require(self.warmup >= 0, "optimizer.warmup", self.warmup, "0 or more")
        _require(0 <= self.beta1 < 1, "optimizer.beta1", self.beta1, "in [0, 1)")
        _require(0 <= self.beta2 < 1, "optimizer.beta2", self.beta2, "in [0, 1)")
        _require(self.eps > 0, "optimizer.eps", self.eps, "above 0")
        allowed = self.weight_decay == 0 or (self.name == "adamw" and self.weight_decay > 0)
        need = "0 for adam, which has none; use --optimizer.name adamw"
        _require(allowed, "optimizer.weight_decay", self.weight_decay, need)
        _require(self.clip is None or self.clip > 0, "optimizer.clip", self.clip, "above 0 or None")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: int = 800_000
    batch_size: int = 128
    """Examples a step, over all devices and processes."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, to save memory."""
    steps_per_dispatch: int = 1
    """Steps in one call of the compiled program; more pays where a step is a few milliseconds."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the parameters; it warms up as (1 + step) / (10 + step)."""
    label_dropout: float = 0.0
    """Share of labels replaced by the null class, for classifier-free guidance."""
    log_every: int = 100
    save_every: int = 5_000
    keep: int = 3
    """How many of the newest checkpoints are kept."""
    keep_every: int | None = None
    """Steps whose multiples keep their checkpoint for good."""
    preview_every: int | None = 5_000
    """Steps between previews; None for none."""

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate", "steps_per_dispatch", "log_every"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        for name in ("save_every", "keep"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        for name in ("keep_every", "preview_every"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"train.{name}", value, "at least 1, or None")
        divides = self.batch_size % self.accumulate == 0
        need = f"a divisor of train.batch_size, which is {self.batch_size}"
        _require(divides, "train.accumulate", self.accumulate, need)
        _require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "in [0, 1)")
        _require(
            0 <= self.label_dropout < 1, "train.label_dropout", self.label_dropout, "in [0, 1)"
        )


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What `ddpm sample` and the previews do unless they are told otherwise."""

    sampler: str = "ddpm-beta"
    """ddpm (σ² = β̃), ddpm-beta (σ² = β, the paper's choice for CIFAR-10) or ddim."""
    steps: int | None = None
    """Steps of the chain; None for all T."""
    eta: float | None = None
    """Noise of ddim: 0 none, 1 as ddpm; None leaves it to the sampler."""
    clip: bool = True
    """Keep every guess of x_0 within [-1, 1]."""
    guidance: float = 0.0
    """w of classifier-free guidance: 0 follows the labels plainly."""
    num: int = 64
    """Samples of a preview."""
    batch_size: int = 256
    """Samples computed at once, over all devices."""

    def __post_init__(self):
        from ddpm_jax.diffusion import SAMPLERS
        from ddpm_jax.diffusion.tables import options_of

        _require_row("sample.sampler", self.sampler, SAMPLERS)
        takes_eta = self.eta is None or "eta" in options_of(SAMPLERS[self.sampler])
        _require(takes_eta, "sample.eta", self.eta, f"left out for {self.sampler}, which has none")
        for name in ("num", "batch_size"):
            _require(getattr(self, name) >= 1, f"sample.{name}", getattr(self, name), "at least 1")
        steps_ok = self.steps is None or self.steps >= 1
        _require(steps_ok, "sample.steps", self.steps, "at least 1, or None")
        eta_ok = self.eta is None or 0 <= self.eta <= 1
        _require(eta_ok, "sample.eta", self.eta, "in 0 … 1, or None")
        _require(self.guidance >= 0, "sample.guidance", self.guidance, "0 or more")


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices share the work."""

    fsdp: int = 1
    """Devices that share each large parameter; the batch is split over all devices."""

    def __post_init__(self):
        _require(self.fsdp >= 1, "mesh.fsdp", self.fsdp, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole: with its seed and a step number it determines everything."""

    seed: int = 0
    data: DataConfig = field(default_factory=TfdsData)
    model: ModelConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        check_seed(self.seed)
        for name, value in flatten(self).items():
            finite = not isinstance(value, float) or math.isfinite(value)
            _require(finite, name, value, "a finite number")
        # A picture's own size is not known yet; `data.resolve` builds the config again with it.
        if not (isinstance(self.data, PictureData) and self.data.image_size is None):
            self.model.check_shape(self.data.shape)
        clips = self.sample.clip and self.data.kind == "points"
        _require(not clips, "sample.clip", True, "False for points, which lie outside [-1, 1]")
        T, steps = self.diffusion.timesteps, self.sample.steps
        need = f"at most diffusion.timesteps, which is {T}"
        _require(steps is None or steps <= T, "sample.steps", steps, need)
        labels = self.model.num_classes > 0
        dropout, guidance = self.train.label_dropout, self.sample.guidance
        need = "0 without labels; set model.num_classes"
        _require(labels or dropout == 0, "train.label_dropout", dropout, need)
        need = "0 unless labels are dropped in training; set model.num_classes, train.label_dropout"
        _require(guidance == 0 or dropout > 0, "sample.guidance", guidance, need)
        each = self.train.steps_per_dispatch
        for name in ("steps", "log_every", "save_every", "preview_every"):
            every = getattr(self.train, name)
            need = f"a multiple of train.steps_per_dispatch, which is {each}"
            _require(every is None or every % each == 0, f"train.{name}", every, need)


# --- JSON, files, differences -------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """Returns nested plain values; a section with several kinds says its own under `kind`."""
    plain = {"kind": config.kind} if hasattr(config, "kind") else {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[item.name] = list(value) if isinstance(value, tuple) else value
    return plain


def from_dict(plain: dict[str, Any]) -> Config:
    """Rebuilds a Config from `to_dict`'s values; settings left out take their defaults.

    Raises UserError for an unknown setting or kind, or a value of another type.
    """
    return _section(Config, plain, "")


def _section(hint: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise UserError(f"{where or 'config'} is {plain!r}; it must be a table of settings")
    kinds = {cls.kind: cls for cls in _members(hint) if hasattr(cls, "kind")}
    if kinds:
        kind = plain.get("kind", next(iter(kinds)))
        _require_row(f"{where}.kind", kind, kinds)
        cls = kinds[kind]
    else:
        cls = hint
    hints = typing.get_type_hints(cls)
    names = [item.name for item in dataclasses.fields(cls)]
    values = {}
    for name, value in plain.items():
        dotted = f"{where}.{name}".lstrip(".")
        if name == "kind" and kinds:
            continue
        if name not in names:
            raise UserError(f"unknown setting {dotted}{nearest(name, names)}")
        hint = hints[name]
        if any(dataclasses.is_dataclass(member) for member in _members(hint)):
            values[name] = _section(hint, value, dotted)
        else:
            values[name] = _value(hint, value, dotted)
    return cls(**values)


def _members(hint: Any) -> tuple[Any, ...]:
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)


def _value(hint: Any, value: Any, dotted: str) -> Any:
    for member in _members(hint):
        origin, args = typing.get_origin(member), typing.get_args(member)
        if origin is Literal and value in args:
            return value
        if origin is tuple and isinstance(value, list | tuple):
            inner = args[:1] * len(value) if args[-1] is Ellipsis else args
            if len(inner) == len(value):
                return tuple(
                    _value(each, item, dotted) for each, item in zip(inner, value, strict=True)
                )
        if member is type(None) and value is None:
            return None
        if member is float and type(value) in (int, float):
            return float(value)  # type: ignore[arg-type]
        if isinstance(member, type) and type(value) is member:
            return value
    named = str(getattr(hint, "__name__", hint)).replace("typing.", "")
    raise UserError(f"{dotted} is {value!r}; it must be {named}")


def flatten(config: Config) -> dict[str, Any]:
    """Returns every setting under its dotted name, `train.steps` and so on."""

    def walk(plain: dict[str, Any], prefix: str) -> dict[str, Any]:
        flat = {}
        for name, value in plain.items():
            dotted = f"{prefix}{name}"
            flat |= walk(value, f"{dotted}.") if isinstance(value, dict) else {dotted: value}
        return flat

    return walk(to_dict(config), "")


def override(config: Config, settings: dict[str, Any]) -> Config:
    """Returns the config with settings replaced by dotted name: {"train.steps": 4}.

    Raises UserError for an unknown name or an impossible value.
    """
    plain = to_dict(config)
    known = [name for name in flatten(config) if not name.endswith(".kind")]
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"unknown setting {name}{nearest(name, known)}")
        *sections, last = name.split(".")
        place = plain
        for section in sections:
            place = place[section]
        place[last] = value
    return from_dict(plain)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that differ, as dotted name -> (old value, new value)."""
    before, after = flatten(old), flatten(new)
    names = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


# Changing one of these would give the saved parameters another shape or another meaning.
_IDENTITY = ("model", "diffusion", "data.kind", "data.image_size", "data.channels")
_HARMLESS = ("model.dropout", "model.dtype", "model.remat")


def breaking(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns those differences with which a run of `old` can't go on as `new`."""

    def breaks(name: str) -> bool:
        inside = any(name == each or name.startswith(f"{each}.") for each in _IDENTITY)
        return inside and name not in _HARMLESS

    return {name: pair for name, pair in differences(old, new).items() if breaks(name)}


def dumps(config: Config) -> str:
    """Returns the config as JSON text."""
    return json.dumps(to_dict(config), indent=2, allow_nan=False) + "\n"


def loads(text: str, where: str = "config.json") -> Config:
    """Reads `dumps`'s text; raises UserError, naming `where`, when it isn't one."""
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None
    try:
        return from_dict(plain)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def load_file(path: str | Path, *, smoke: bool = False) -> Config:
    """Runs a config file's `get_config()`; raises UserError if there is none.

    With `smoke`, the file's `SMOKE` (settings by dotted name) is put over it: the same run in
    seconds, to see that it works.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        known = sorted(str(item) for item in folder.glob("*.py"))
        hint = nearest(str(path), known) or f"; {folder} has {', '.join(known) or 'none'}"
        raise UserError(f"no config file {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"ddpm_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; a config file ends in .py")
    module = importlib.util.module_from_spec(spec)
    # As when a script is run, a config may import the files beside it.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path} has no get_config(); it must return a ddpm_jax.Config")
        config = module.get_config()
    except UserError:
        raise
    # The file is the user's, and so is whatever is wrong in it.
    except Exception as error:
        lines = [
            row.lineno
            for row in traceback.extract_tb(error.__traceback__)
            if row.filename == str(path)
        ]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        what = " ".join(str(error).split())
        raise UserError(f"{where}: {type(error).__name__}: {what}; mend the file") from error
    finally:
        sys.path.pop(0)
    if not isinstance(config, Config):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}, not a Config")
    if not smoke:
        return config
    if not hasattr(module, "SMOKE"):
        raise UserError(f"{path} has no SMOKE, a dict of settings for a run of seconds")
    return override(config, module.SMOKE)
