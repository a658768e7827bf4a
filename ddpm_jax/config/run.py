"""The settings of a run: diffusion, optimizer, loop, sampling, devices, and the whole."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import numpy as np

from ddpm_jax.averages import AVERAGES, power_lengths
from ddpm_jax.config.checks import check_seed
from ddpm_jax.config.choices import AUTO, ChoiceField, ChoicesField, naming
from ddpm_jax.config.plain import flatten
from ddpm_jax.config.validation import ValidationConfig, held_out_data
from ddpm_jax.config.values import FINITE, in_float32
from ddpm_jax.data import DataConfig
from ddpm_jax.data.settings import PictureData, TfdsData
from ddpm_jax.diffusion import (
    CLIPPINGS,
    GUIDANCE,
    LOSSES,
    OBJECTIVES,
    PARAMETERIZATIONS,
    SAMPLERS,
    SCHEDULES,
    TIME_GRIDS,
    WEIGHTINGS,
    NoiseSchedule,
    Sampler,
    make_clipping,
    make_guidance,
    make_objective,
    make_sampler,
    make_schedule,
    make_time_grid,
    make_weighting,
    suited_sampler,
)
from ddpm_jax.diffusion.conditioners import CONDITIONERS, make_conditioner
from ddpm_jax.diffusion.schedules import LARGEST_SHIFT, LARGEST_T, SHIFTS
from ddpm_jax.diffusion.timestep_samplers import TIMESTEP_SAMPLERS, make_timestep_sampler
from ddpm_jax.errors import INT32_MAX, require, require_whole
from ddpm_jax.models import ModelConfig, UNetConfig
from ddpm_jax.optimizers import OPTIMIZERS
from ddpm_jax.tables import Choice
from ddpm_jax.typing import Objective, is_image

# Values of one batch: XLA ends the process where a program's array has more than int64 can count.
_LARGEST_BATCH = 2**40

# A row checks its options when it is made, whatever it is made of.
_ANY_SCHEDULE = make_schedule("cosine", 1_000)
_ANY_PREDICTION = PARAMETERIZATIONS["eps"]


def _weighting(name: str, **options: Any) -> None:
    weight = make_weighting(name, _ANY_PREDICTION, **options)
    # Traced only: a config must not take hold of a device.
    jax.eval_shape(weight, jax.ShapeDtypeStruct((1,), np.float32))


def _optimizer(name: str, **options: Any) -> None:
    OPTIMIZERS[name](**options)


def _average(name: str, **options: Any) -> None:
    AVERAGES[name](**options)


def _timestep_sampler(name: str, **options: Any) -> None:
    make_timestep_sampler(name, _ANY_SCHEDULE.T, **options)


def _sampler(name: str, **options: Any) -> Sampler:
    return make_sampler(name, _ANY_SCHEDULE, **options)


def _grid(name: str, **options: Any) -> None:
    make_time_grid(name, _ANY_SCHEDULE, 1, fractional=True, **options)


def _clipping(name: str, **options: Any) -> None:
    make_clipping(name, _ANY_SCHEDULE, **options)


def _guidance(name: str, **options: Any) -> None:
    make_guidance(name, _ANY_SCHEDULE, **options)


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The forward process and what the network learns of it."""

    schedule: ChoiceField = ChoiceField("diffusion.schedule", SCHEDULES, "linear")
    """How much noise each step adds."""
    timesteps: int = 1000
    """T: how many noise steps lie between data and noise."""
    shift: float = 1.0
    """Side of the pictures over the side that the schedule is meant for: log SNR is lower by twice
    its logarithm. 4 gives 256×256 pixels the noise of 64×64; 1 changes nothing."""
    zero_terminal_snr: bool = False
    """Change the schedule so that x_T is noise alone. The network must predict v or x_0, and its
    last step learns nothing with the weightings min_snr and p2."""
    prediction: ChoiceField = ChoiceField("diffusion.prediction", PARAMETERIZATIONS, "eps")
    """What the network predicts. Under a cosine schedule x_0 from eps loses 3 to 4 digits near T,
    where it is divided by √ᾱ_t; v and x_0 need no division."""
    objective: ChoiceField = ChoiceField("diffusion.objective", OBJECTIVES, "simple")
    """What training minimises."""
    condition: ChoiceField = ChoiceField("diffusion.condition", CONDITIONERS, "nothing")
    """What the network sees beside x_t and labels. low_resolution makes it enlarge pictures."""
    loss: ChoiceField = ChoiceField("diffusion.loss", LOSSES, "l2")
    """How the prediction's error is measured."""
    weighting: ChoiceField = ChoiceField("diffusion.weighting", WEIGHTINGS, "none", _weighting)
    """How the loss is weighted over t."""

    def __post_init__(self):
        require_whole("diffusion.timesteps", self.timesteps, most=LARGEST_T)
        # Here and not in their fields, because they are made of several settings.
        within = 1 / LARGEST_SHIFT <= self.shift <= LARGEST_SHIFT
        require(within, "diffusion.shift", self.shift, f"in {SHIFTS}")
        zero = self.zero_terminal_snr
        need = "False with eps, from which x_0 can't be found where the SNR is 0; predict v or x_0"
        require(
            not zero or self.prediction.name != "eps", "diffusion.zero_terminal_snr", zero, need
        )
        need = "False where diffusion.timesteps is 1"
        require(not zero or self.timesteps > 1, "diffusion.zero_terminal_snr", zero, need)
        with naming("diffusion.schedule", self.schedule):
            _ = self.noise_schedule
        with naming("diffusion.objective", self.objective):
            _ = self.learned_variance

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The tables of these settings; ValueError for options that they refuse."""
        return make_schedule(
            self.schedule.name,
            self.timesteps,
            shift=self.shift,
            zero_terminal_snr=self.zero_terminal_snr,
            **self.schedule.options,
        )

    @property
    def learned_variance(self) -> str | None:
        """The row of VARIANCES that the network learns by the objective; None if it learns none."""
        return self.trained_objective.variance

    @property
    def trained_objective(self) -> Objective:
        """The objective of these settings; ValueError for options that it refuses."""
        return make_objective(
            self.objective.name,
            self.noise_schedule,
            PARAMETERIZATIONS[self.prediction.name],
            loss=self.loss.name,
            weighting=self.weighting,
            **self.objective.options,
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, its learning rate over time, and the clipping of gradients."""

    method: ChoiceField = ChoiceField("optimizer.method", OPTIMIZERS, "adam", _optimizer)
    """How a gradient becomes an update of the parameters."""
    learning_rate: float = 2e-4
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after the warm-up; linear and cosine end just above 0."""
    clip: float | None = 1.0
    """Largest global norm of the gradient; None for no limit."""

    def __post_init__(self):
        rate = self.learning_rate
        require(0 < rate < math.inf, "optimizer.learning_rate", rate, "above 0")
        require_whole("optimizer.warmup", self.warmup, least=0)
        require(self.clip is None or self.clip > 0, "optimizer.clip", self.clip, "above 0 or None")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: int = 800_000
    batch_size: int = 128
    """Examples per step, over all devices and processes."""
    gradient_accumulation_steps: int = 1
    """Parts that a batch is computed in, one after the other, to save memory."""
    steps_per_dispatch: int = 1
    """Steps in each call of the compiled program. More is faster for short steps and on a CPU;
    logs, saves and signals wait for the end of a call."""
    averages: ChoicesField = ChoicesField("train.averages", AVERAGES, {"ema": "ema"}, _average)
    """The averages of the parameters that are kept; previews are drawn from the first."""
    timestep_sampler: ChoiceField = ChoiceField(
        "train.timestep_sampler", TIMESTEP_SAMPLERS, "uniform", _timestep_sampler
    )
    """How the timesteps of a batch are drawn."""
    label_dropout: float = 0.0
    """Share of labels replaced by the null class, for classifier-free guidance."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """What logs the run besides metrics.jsonl and events.jsonl."""
    log_every: int = 100
    save_every: int = 5_000
    keep: int = 3
    """How many of the newest checkpoints are kept, beside the weights that a run starts from."""
    keep_every: int | None = None
    """Checkpoints of steps that this divides are never removed; None for none."""
    snapshot_every: int | None = None
    """Steps between snapshots of the averages by `power`, from which `ema_length` makes one of any
    length; none is ever removed. None for none."""
    preview_every: int | None = 5_000
    """Steps between previews; None for none. A classifier has none."""
    on_nonfinite: Literal["skip", "stop", "rollback"] = "skip"
    """A loss or gradient that is not finite never changes the parameters. Then: skip goes on, stop
    ends the run at once, rollback returns to the last save and skips the steps in between."""
    max_nonfinite_steps: int = 10
    """Non-finite steps in a row after which skip ends the run and rollback goes back."""

    @property
    def first_average(self) -> str:
        return next(iter(self.averages))

    @property
    def nonfinite_limit(self) -> int:
        """How many steps in a row may be non-finite before the policy acts."""
        return 1 if self.on_nonfinite == "stop" else self.max_nonfinite_steps

    def __post_init__(self):
        for name in (
            "steps",
            "batch_size",
            "gradient_accumulation_steps",
            "steps_per_dispatch",
            "log_every",
            "save_every",
            "keep",
            "max_nonfinite_steps",
        ):
            require_whole(f"train.{name}", getattr(self, name))
        for name in ("keep_every", "snapshot_every", "preview_every"):
            if getattr(self, name) is not None:
                require_whole(f"train.{name}", getattr(self, name))
        divides = self.batch_size % self.gradient_accumulation_steps == 0
        need = f"a divisor of train.batch_size, which is {self.batch_size}"
        require(
            divides, "train.gradient_accumulation_steps", self.gradient_accumulation_steps, need
        )
        need = "without raw, which stands for the parameters themselves"
        require("raw" not in self.averages, "train.averages", self.averages, need)
        need = "None without averages by power, as --train.averages ema short=power"
        can = self.snapshot_every is None or len(power_lengths(self.averages)) > 0
        require(can, "train.snapshot_every", self.snapshot_every, need)
        require(0 <= self.label_dropout < 1, "train.label_dropout", self.label_dropout, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The defaults of `ddpm sample`, and what the previews do."""

    sampler: ChoiceField = ChoiceField("sample.sampler", SAMPLERS, AUTO, _sampler, auto=True)
    """How the chain goes from noise to data; auto is ddpm for all T steps, and dpmpp-sde for fewer,
    with eta 0.5 below 10. ddpm has σ² = β̃; ddpm-beta has σ² = β: Ho et al. 2020 for CIFAR-10."""
    steps: int | None = None
    """Steps of the chain; None for all T."""
    grid: ChoiceField = ChoiceField("sample.grid", TIME_GRIDS, AUTO, _grid, auto=True)
    """Which times the steps go through; auto is the grid that suits the sampler."""
    clipping: ChoiceField = ChoiceField("sample.clipping", CLIPPINGS, "clip", _clipping)
    """What keeps the predicted x_0 in the range of the data."""
    guidance: float = 0.0
    """w of the guidance: 0 follows the labels as they are. It leads away from the network without
    labels, or from a weaker run, if one is given."""
    guidance_method: ChoiceField = ChoiceField(
        "sample.guidance_method", GUIDANCE, "classifier_free", _guidance
    )
    """How two predictions become a guided one."""
    guidance_interval: tuple[float, float] | None = None
    """Where guidance acts: from the first to the second log SNR, which is -2 log σ. None for the
    whole chain."""
    negative_label: int | str | None = None
    """The class, by number or name, that guidance leads away from; None for no class."""
    classifier_scale: float = 1.0
    """Factor of the gradient of a classifier that guides; 1 takes its probabilities as they are."""
    num: int = 64
    """How many samples to draw, here and in a preview."""
    batch_size: int = 256
    """Samples computed at once, over all devices."""

    def __post_init__(self):
        for name in ("num", "batch_size", "steps"):
            if name != "steps" or self.steps is not None:
                require_whole(f"sample.{name}", getattr(self, name))
        require(self.guidance >= 0, "sample.guidance", self.guidance, "0 or more")
        interval = self.guidance_interval
        need = "two finite numbers, the first below the second"
        good = interval is None or -math.inf < interval[0] < interval[1] < math.inf
        require(good, "sample.guidance_interval", interval, need)
        scale = self.classifier_scale
        require(scale >= 0, "sample.classifier_scale", scale, "0 or more")

    def settled(self, T: int, steps: int | None = None) -> "SampleConfig":
        """Returns the section with rows in the place of `auto`, for chains of a schedule of T.

        `steps` are those of chains whose times are given; None for the section's own.
        """
        sampler, grid = self.sampler, self.grid
        if sampler.name == AUTO:
            name, options = suited_sampler(steps or self.steps or T, T)
            sampler = Choice(name, **options)
        if grid.name == AUTO:
            grid = Choice(_sampler(sampler.name, **sampler.options).grid)
        return replace(self, sampler=sampler, grid=grid)


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices share the work."""

    fsdp: int = 1
    """Devices that share each large parameter; the batch is split over all devices."""

    def __post_init__(self):
        require_whole("mesh.fsdp", self.fsdp)


def check_variance(sampler: Choice, diffusion: DiffusionConfig) -> None:
    """Raises UserError for a sampler that needs a learned variance where the network has none."""
    needs = _sampler(sampler.name, **sampler.options).learned_variance
    need = (
        f"one without a learned variance: diffusion.objective {diffusion.objective.name} has none"
    )
    require(not needs or diffusion.learned_variance is not None, "sample.sampler", sampler, need)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run: a config, its seed and a step number determine everything."""

    seed: int = 0
    data: DataConfig = field(default_factory=TfdsData)
    model: ModelConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig = field(default_factory=lambda: DiffusionConfig())
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig())
    train: TrainConfig = field(default_factory=lambda: TrainConfig())
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    sample: SampleConfig = field(default_factory=lambda: SampleConfig())
    mesh: MeshConfig = field(default_factory=MeshConfig)
    init: str | None = None
    """Where the first parameters come from, which else are drawn: the folder of a run, or
    FORMAT:SOURCE for weights of another project."""
    figures: tuple[str, ...] = ()
    """The run's own figures, each as in `ddpm plot RUN FIGURE --OPTIONS`. `ddpm train` draws them
    at its end, and `ddpm plot RUN` again."""

    def __post_init__(self):
        check_seed(self.seed)
        classifies = self.diffusion.trained_objective.classifies
        for name, value in flatten(self).items():
            numbers = [each for each in np.ravel(value) if isinstance(each, int | float)]
            require(all(map(in_float32, numbers)), name, value, FINITE)
        # The size of a picture may be unknown yet; `data.resolve` builds the config again with it.
        if not (isinstance(self.data, PictureData) and self.data.image_size is None):
            self.model.check_shape(self.data.example_shape)
            most = _LARGEST_BATCH // math.prod(self.data.example_shape)
            require_whole("train.batch_size", self.train.batch_size, most=min(most, INT32_MAX))
            held_out_data(self.data, self.validation.data)
            with naming("diffusion.condition", self.diffusion.condition):
                chosen, shape = self.diffusion.condition, self.data.example_shape
                takes = make_conditioner(chosen.name, shape, **chosen.options).takes
            need = "nothing for diffusion.objective classification"
            require(not (takes and classifies), "diffusion.condition", chosen.name, need)
            need = f"nothing for model.kind {self.model.kind}, which takes nothing else"
            fits = set(takes) <= set(self.model.may_take)
            require(fits, "diffusion.condition", chosen.name, need)
            clips = self.sample.clipping.name != "none" and not is_image(self.data.example_shape)
            need = "none for points, which lie outside [-1, 1]"
            require(not clips, "sample.clipping", self.sample.clipping.name, need)
        T, steps = self.diffusion.timesteps, self.sample.steps
        need = f"at most diffusion.timesteps, which is {T}"
        require(steps is None or steps <= T, "sample.steps", steps, need)
        check_variance(self.sample.settled(T).sampler, self.diffusion)
        labels = self.model.num_classes > 0
        need = "the number of classes for diffusion.objective classification"
        require(labels or not classifies, "model.num_classes", self.model.num_classes, need)
        dropout, guidance = self.train.label_dropout, self.sample.guidance
        need = "0 without labels; set model.num_classes"
        require(labels or dropout == 0, "train.label_dropout", dropout, need)
        negative = self.sample.negative_label
        need = "None without labels; set model.num_classes"
        require(labels or negative is None, "sample.negative_label", negative, need)
        need = "0 unless labels are dropped in training; set model.num_classes, train.label_dropout"
        fits = guidance == 0 or dropout > 0 or negative is not None
        require(fits, "sample.guidance", guidance, need)
        metrics = self.validation.metrics
        need = "empty without previews; set train.preview_every, for a network that draws samples"
        previews = self.train.preview_every is not None and not classifies
        require(previews or not metrics, "validation.metrics", metrics, need)
        each = self.train.steps_per_dispatch
        names = ("steps", "log_every", "save_every", "snapshot_every", "preview_every")
        intervals = {f"train.{name}": getattr(self.train, name) for name in names}
        for name, every in {**intervals, "validation.every": self.validation.every}.items():
            need = f"a multiple of train.steps_per_dispatch, which is {each}"
            require(every is None or every % each == 0, name, every, need)
