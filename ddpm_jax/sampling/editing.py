"""Editing pictures with a trained run: EDITS is the table, `edit` applies one of its rows.

To add a way of editing, write its function and its row here. Its keyword-only parameters are its
options, in Python and on the command line.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax import tables
from ddpm_jax.data.classes import NO_CLASS
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.diffusion import SamplerOperator, q_sample, sample_noise
from ddpm_jax.diffusion.editing import between, inversion, repaint, repaint_times
from ddpm_jax.diffusion.operators import (
    LinearOperator,
    Measurement,
    make_linear_operator,
    null_space,
)
from ddpm_jax.errors import UserError, nearest, require
from ddpm_jax.runtime.random import sample_keys
from ddpm_jax.sampling.cascade import enlarge, enlarges
from ddpm_jax.sampling.chain import Progress, Start
from ddpm_jax.sampling.edited import Edited
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.typing import Denoiser, Operator, is_image

JumpLength = Annotated[int | None, "Steps of each way back up of repaint; if left out, 10."]
JumpSamples = Annotated[int | None, "How often repaint goes down each stretch; if left out, 10."]
Method = Annotated[
    Literal["ddnm", "repaint"],
    "ddnm (100 calls of the network) or repaint (2,410 calls, for large holes).",
]
Sigma = Annotated[float, "Standard deviation of the blur, in pixels."]
Time = Annotated[int | None, "The time t in 1 … T up to which pictures become noise."]


_LEAST_LOG_SNR = -10.0
"""Below it, an error of the network's eps makes one of x_0 that is 150 times as large."""


class Subject(NamedTuple):
    """What an edit works on."""

    run: Run
    pictures: np.ndarray
    """float32 `[num, h, w, C]` in [-1, 1], all of one size."""
    second: np.ndarray | None
    """What else was given: a mask as bool `[num, h, w]`, or as many pictures."""
    seed: int
    first: int
    labels: Any
    progress: Progress
    settings: dict[str, Any]
    """Those of `sample`, as they were given."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (H, W, C) of the run's pictures."""
        return self.run.config.data.example_shape

    @property
    def T(self) -> int:
        """The number of noise steps."""
        return self.run.experiment.schedule.T

    def settled(self, **defaults: Any) -> dict[str, Any]:
        """Returns all settings of `sample`: those given, these defaults, then the config's.

        Options of a sampler that was given are not among the defaults.
        """
        if "sampler" in self.settings:
            defaults = {k: v for k, v in defaults.items() if k not in ("sampler", "eta")}
        if defaults.get("steps") is not None:
            defaults["steps"] = min(defaults["steps"], self.T)
        options = self.run.options(**(defaults | self.settings))
        return {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}

    def sample(self, settings: dict[str, Any], **more: Any) -> Samples:
        """Draws one sample for each picture."""
        fixed: dict[str, Any] = {"seed": self.seed, "first": self.first, "labels": self.labels}
        num = len(self.pictures)
        settings = {name: value for name, value in settings.items() if name != "num"}
        return self.run.sample(num, **fixed, progress=self.progress, **settings, **more)

    def whole(self) -> np.ndarray:
        """Returns the pictures; raises UserError unless they have the run's shape."""
        self._require_channels(self.shape[-1])
        if self.pictures.shape[1:3] != self.shape[:2]:
            raise UserError(
                f"the picture is {_size(self.pictures.shape)}; this run's pictures are "
                f"{_size(self.shape)}: scale or crop it to that"
            )
        return self.pictures

    def _require_channels(self, channels: int) -> None:
        have = self.pictures.shape[-1]
        if have != channels:
            fix = {1: "turn it to grey", 3: "give one in colour, or colourise it"}.get(
                channels, f"give an array [H, W, {channels}] in Python"
            )
            raise UserError(
                f"the picture has {_channels(have)}, and this edit needs {_channels(channels)}; "
                f"{fix}"
            )

    def time(self, t: int | None, default: int) -> int:
        """Returns t, or the default; raises UserError unless it is in 1 … T."""
        t = max(1, default) if t is None else t
        require(1 <= t <= self.T, "t", t, f"in 1 … {self.T}")
        return t

    @property
    def last_clear(self) -> int:
        """The last time at which x_0 can be found from x_t and the network's eps."""
        return int((self.run.experiment.schedule.log_snr >= _LEAST_LOG_SNR).sum()) - 1


def _size(shape: tuple[int, ...]) -> str:
    """Returns height and width of a shape (…, H, W, C)."""
    return f"{shape[-3]}×{shape[-2]}"


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


# --- pictures that are known in part --------------------------------------------------------------


@cache
def _operator(name: str, shape: tuple[int, ...], **options: Any) -> LinearOperator:
    return make_linear_operator(name, shape, **options)


@cache
def _null_space(operator: LinearOperator) -> Callable[[Denoiser, Any], Denoiser]:
    # Cached, because the same function shares one compiled program.
    return null_space(operator)


def _restored(
    subject: Subject, operator: LinearOperator, given: Measurement, seen: np.ndarray
) -> Edited:
    """Restores pictures from A x by DDNM, in 100 steps of DDIM with eta 0.85.

    `seen` is what was given, at the size of the result.
    """
    settings = subject.settled(sampler="ddim", eta=0.85, steps=100)
    drawn = subject.sample(settings, transforms=[Operator(_null_space(operator), given)])
    return Edited(drawn, {"given": seen})


def _inpaint(
    subject: Subject,
    *,
    method: Method = "ddnm",
    jump_length: JumpLength = None,
    jump_samples: JumpSamples = None,
) -> Edited:
    """Paints a part of a picture anew: where it is transparent, or where a second one is white."""
    pictures, paint = subject.whole(), subject.second
    if paint is None:
        raise UserError("inpaint needs a mask: transparent pixels, or a second picture, white")
    if paint.dtype != bool or paint.shape != pictures.shape[:3]:
        have = _size((*paint.shape, 1)) if paint.dtype == bool else "a picture"
        need = f"true or false for each pixel of the picture, {_size(pictures.shape)}"
        mend = "" if paint.dtype == bool else ", such as picture > 127"
        raise UserError(f"the mask is {have}; it must be {need}{mend}")
    for i, part in enumerate(paint.reshape(len(paint), -1)):
        of = f" of picture {i}" if len(paint) > 1 else ""
        if not part.any():
            raise UserError(f"the mask{of} is empty: no pixel is to be painted; make some white")
        if part.all():
            raise UserError(f"the mask{of} covers the whole picture; to draw new ones, use sample")
    jumps = {"jump_length": jump_length, "jump_samples": jump_samples}
    jumps = {name: value for name, value in jumps.items() if value is not None}
    if jumps and method != "repaint":
        raise UserError(f"{min(jumps)} is an option of the method repaint, not of {method}")
    known = ~paint[..., None]
    given = Measurement(np.where(known, pictures, 0).astype(np.float32), known)
    if method == "ddnm":
        return _restored(subject, _operator("mask", subject.shape), given, given.y)
    settings = subject.settled(sampler="ddpm", steps=250)
    try:
        times = repaint_times(
            subject.run.times(**settings), **{"jump_length": 10, "jump_samples": 10, **jumps}
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    around = SamplerOperator(repaint, given)
    drawn = subject.sample(settings, times=times, transforms=[around])
    return Edited(drawn, {"given": given.y})


def _upscale(subject: Subject) -> Edited:
    """Draws a picture of the run's size whose averages are a smaller picture.

    A stage of a cascade draws it as it was trained to.
    """
    if enlarges(subject.run.experiment):
        more: dict[str, Any] = {"seed": subject.seed, "first": subject.first}
        more |= {"labels": subject.labels, "progress": subject.progress}
        drawn = enlarge(subject.run, subject.pictures, **more, **subject.settings)
        factor = subject.run.experiment.conditioner.factor
        return Edited(drawn, {"given": subject.pictures.repeat(factor, 1).repeat(factor, 2)})
    subject._require_channels(subject.shape[-1])
    (height, width), (own_h, own_w) = subject.pictures.shape[1:3], subject.shape[:2]
    factor = own_h // height
    if factor < 2 or (height * factor, width * factor) != (own_h, own_w):
        fitting = ", ".join(
            f"{own_h // f}×{own_w // f}"
            for f in range(2, min(own_h, own_w) + 1)
            if own_h % f == own_w % f == 0
        )
        raise UserError(
            f"the picture is {_size(subject.pictures.shape)}; upscale needs one that is smaller "
            f"than {own_h}×{own_w} by a whole factor: {fitting}"
        )
    operator = _operator("downsample", subject.shape, factor=factor)
    seen = subject.pictures.repeat(factor, 1).repeat(factor, 2)
    return _restored(subject, operator, Measurement(subject.pictures), seen)


def _colourise(subject: Subject) -> Edited:
    """Draws a picture in colour whose shades of grey are a grey picture."""
    if subject.shape[-1] != 3:
        raise UserError(
            f"this run's pictures have {_channels(subject.shape[-1])}; colourise needs a run on "
            "colours"
        )
    if subject.pictures.shape[-1] != 1:
        raise UserError("the picture is in colour already; colourise takes a grey one")
    if subject.pictures.shape[1:3] != subject.shape[:2]:
        raise UserError(
            f"the picture is {_size(subject.pictures.shape)}; this run's pictures are "
            f"{_size(subject.shape)}: scale or crop it to that"
        )
    seen = subject.pictures.repeat(3, axis=-1)
    return _restored(subject, _operator("grey", subject.shape), Measurement(subject.pictures), seen)


def _deblur(subject: Subject, *, sigma: Sigma = 1.0) -> Edited:
    """Draws a sharp picture that gives this one if a Gaussian blurs it."""
    try:
        operator = _operator("blur", subject.shape, sigma=sigma)
    except ValueError as error:
        raise UserError(str(error)) from None
    return _restored(subject, operator, Measurement(subject.whole()), subject.whole())


# --- pictures as x_t ------------------------------------------------------------------------------


def _vary(
    subject: Subject,
    *,
    t: Time = None,
    repeats: Annotated[int, "How often the picture becomes noise and is drawn again."] = 1,
) -> Edited:
    """Draws pictures like this one: noise up to the time t, by default 0.4 T, and back (SDEdit).

    Source: Meng et al. 2022.
    """
    pictures, top = subject.whole(), subject.time(t, round(0.4 * subject.T))
    require(repeats >= 1, "repeats", repeats, "at least 1")
    settings = subject.settled()
    grid = subject.run.times(**settings)
    down = [top, *grid[grid < top]]
    # A chain that starts at the data goes up first, which adds the noise of each sample.
    times = np.array([0, *down * repeats], grid.dtype)
    drawn = subject.sample(settings, times=times, start=Start(pictures, 0))
    return Edited(drawn, {"given": pictures})


def _falling(subject: Subject, t: int) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the settings of DDIM's ODE, 100 steps by default, and its times from t down.

    The steps are even in log SNR. They come back nearer to the picture than steps even in t:
    tests/benchmarks/RESULTS.md has a quarter of the mean squared error.
    """
    fixed: dict[str, Any] = {"sampler": "ddim", "eta": 0.0, "clipping": "none"}
    for name, value in fixed.items():
        if subject.settings.get(name, value) != value:
            raise UserError(
                f"{name} is {subject.settings[name]}; an edit that follows DDIM's ODE up and down "
                f"has {value}: leave it out"
            )
    settings = subject._replace(settings=subject.settings | fixed).settled(steps=100, grid="logsnr")
    grid = subject.run.times(**settings)
    return settings, np.array([t, *grid[grid < t]], grid.dtype)


def _inverted(subject: Subject, pictures: np.ndarray, t: int) -> np.ndarray:
    """Returns the x_t that the ODE leads to from pictures."""
    settings, down = _falling(subject, t)
    up = SamplerOperator(inversion, None)
    start = Start(pictures, 0)
    return subject.sample(settings, times=down[::-1], start=start, transforms=[up]).samples


def _invert(subject: Subject, *, t: Time = None) -> Edited:
    """Finds the noise that a picture comes from, and draws the picture from it again (DDIM).

    It goes up to t, by default the last time with a log SNR of at least -10. Above that x_t is
    noise, and where a schedule ends in much less, x_0 can't be found from it.
    """
    pictures, top = subject.whole(), subject.time(t, subject.last_clear)
    noise = _inverted(subject, pictures, top)
    settings, down = _falling(subject, top)
    drawn = subject.sample(settings, times=down, start=Start(noise, top))
    # On [0, 1], as the literature states it.
    error = float((((drawn.samples - pictures) / 2).astype(np.float64) ** 2).mean())
    values = {"mean squared error of the picture drawn again, on [0, 1]": error}
    return Edited(drawn, {"given": pictures, "noise": noise}, noise, values)


def _interpolate(
    subject: Subject,
    *,
    t: Time = None,
    by: Annotated[
        Literal["inversion", "noise"],
        "How pictures become x_t: by the ODE, so that both ends are drawn again, or by one noise "
        "for both.",
    ] = "inversion",
) -> Edited:
    """Draws the way from one picture to a second: as many pictures as are asked for.

    By inversion, t is by default that of invert (Song et al. 2021); by noise, T / 2 (Ho et al.
    2020).
    """
    firsts, lasts = subject.whole(), subject.second
    if lasts is None or lasts.dtype == bool or lasts.shape != firsts.shape:
        raise UserError(
            f"interpolate needs a second picture, of {_size(firsts.shape)} like the first"
        )
    num = len(firsts)
    require(num >= 2, "num", num, "at least 2, the pictures at both ends")
    fraction = np.linspace(0, 1, num, dtype=np.float32)
    if by == "inversion":
        top = subject.time(t, subject.last_clear)
        ends = [jnp.asarray(_inverted(subject, pictures, top)) for pictures in (firsts, lasts)]
        mixed = np.asarray(between(ends[0], ends[1], jnp.asarray(fraction)))
        settings, down = _falling(subject, top)
    else:
        top, settings = subject.time(t, subject.T // 2), subject.settled()
        index = np.full(num, subject.first, np.uint32)
        noise = sample_noise(sample_keys(subject.seed, index), subject.shape)
        weights = fraction[:, None, None, None]
        x_0 = jnp.asarray((1 - weights) * firsts + weights * lasts)
        mixed = np.asarray(q_sample(subject.run.experiment.schedule, x_0, jnp.asarray(top), noise))
        grid = subject.run.times(**settings)
        down = np.array([top, *grid[grid < top]], grid.dtype)
    drawn = subject.sample(settings, times=down, start=Start(mixed, top))
    return Edited(drawn, {})


EDITS: dict[str, Callable[..., Edited]] = {
    "inpaint": _inpaint,
    "upscale": _upscale,
    "colourise": _colourise,
    "deblur": _deblur,
    "vary": _vary,
    "interpolate": _interpolate,
    "invert": _invert,
}


def edit(
    run: Run,
    how: str,
    pictures: np.ndarray,
    second: np.ndarray | None = None,
    *,
    num: int | None = None,
    seed: int = 0,
    first: int = 0,
    labels: Any = None,
    progress: Progress = lambda done, total: None,
    **settings: Any,
) -> Edited:
    """Edits pictures with a run, by a row of EDITS.

    `pictures` are `[H, W, C]`, or `[H, W]` in grey, of which `num` variants are drawn, or
    `[num, H, W, C]`, one result each: uint8, or floats in [-1, 1]. `second` is a mask, bool
    `[H, W]` or `[num, H, W]` with True where to paint, or the pictures at the other end. Variant i
    has the noise of sample first + i.
    `labels` are as for `Run.sample`; None draws without a class where the network allows that.
    `settings` are options of the row and settings of `Run.sample`. Raises UserError for what does
    not exist or does not go together.
    """
    if how not in EDITS:
        known = ", ".join(EDITS)
        raise UserError(f"how is {how!r}{nearest(how, list(EDITS))}: it must be one of {known}")
    shape, own = run.config.data.example_shape, tables.options_of(EDITS[how])
    if how != "upscale" and enlarges(run.experiment):
        raise UserError(f"this run only enlarges pictures: how must be upscale, not {how}")
    if not is_image(shape):
        raise UserError("edit is for runs on pictures, and this one makes points")
    pictures = _on_scale("the picture", pictures)
    default = 8 if how == "interpolate" else 1
    num = (len(pictures) if pictures.ndim == 4 else default) if num is None else num
    require(num >= 1, "num", num, "at least 1")
    rows = _rows("pictures", pictures, 3, num)
    if second is not None:
        mask = np.asarray(second).dtype == bool
        second = np.asarray(second) if mask else _on_scale("the second picture", second)
        second = _rows("second", second, 2 if mask else 3, num)
    if labels is None and run.experiment.num_classes:
        if run.config.train.label_dropout == 0:
            raise UserError(
                "this network always takes a class (train.label_dropout is 0); give one"
            )
        labels = NO_CLASS
        settings.setdefault("guidance", 0.0)
    options = {name: value for name, value in settings.items() if name in own}
    others = {name: value for name, value in settings.items() if name not in own}
    return EDITS[how](Subject(run, rows, second, seed, first, labels, progress, others), **options)


def _on_scale(name: str, given: Any) -> np.ndarray:
    array = np.asarray(given)
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype == np.uint8:
        return np.asarray(to_unit(jnp.asarray(array)))
    if not np.issubdtype(array.dtype, np.floating) or not (np.abs(array) <= 1).all():
        raise UserError(f"{name} must be uint8, or floats in [-1, 1]")
    return array.astype(np.float32)


def _rows(name: str, array: np.ndarray, axes: int, num: int) -> np.ndarray:
    """Returns the array with `num` rows: its own, or one repeated."""
    if array.ndim == axes:
        return np.broadcast_to(array, (num, *array.shape))
    if array.ndim != axes + 1 or len(array) != num:
        raise UserError(f"{name} has the shape {array.shape}; it must be one picture, or {num}")
    return array
