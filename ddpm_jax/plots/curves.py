"""Figures of curves: the losses of a run, the terms of a bound, noise schedules side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.plots.style import COLOURS, PathLike, check_path, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {"loss": "loss", "grad_norm": "gradient norm"}
_OF_STEPS = ("step", *_PANELS, "learning_rate", "images_per_s", "data_wait", "nonfinite_steps")
_VALIDATION = "validation_loss"


def loss(path: PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the losses, the gradient norm and each metric that were logged, over the steps, as PNG.

    `rows` are those of metrics.jsonl: `step`, and any of `loss`, `validation_loss` (drawn over the
    loss), `grad_norm` and the names of metrics. If a value was logged twice at a step, the last
    counts. What is not finite is not drawn, nor are losses and norms that are not positive. Raises
    `UserError` if no row has a loss to draw.
    """
    from matplotlib.ticker import MaxNLocator

    path = check_path(path, ".png")
    curves = {name: _positive(_curve(rows, name)) for name in _PANELS}
    if len(curves["loss"]) == 0:
        raise UserError(f"{path}: no loss was logged yet; train until the first is, then plot")
    names = dict.fromkeys(name for row in rows for name in row)
    # A name with a slash is of one class.
    known = (*_OF_STEPS, _VALIDATION)
    metrics = [name for name in names if name not in known and "/" not in name]
    curves |= {name: _curve(rows, name) for name in metrics}
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    validation = _positive(_curve(rows, _VALIDATION))
    with styled():
        figure = new_figure(7, 0.4 + 2.6 * len(curves), layout="constrained")
        panels = figure.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
        for k, (axes, (name, curve)) in enumerate(zip(panels, curves.items(), strict=True)):
            colour = COLOURS[k % len(COLOURS)]
            axes.set_title(_PANELS.get(name, name))
            if name in _PANELS:
                _draw_steps(axes, curve, colour)
            else:
                axes.plot(*curve.T, color=colour, linewidth=1.4, marker="o", markersize=3)
        if len(validation):
            style: Any = {"color": "black", "linewidth": 1.2, "marker": "o", "markersize": 3}
            panels[0].plot(*validation.T, label="on held-out data", **style)
            _logarithmic(panels[0], np.concatenate([curves["loss"][:, 1], validation[:, 1]]))
        if len(validation) or len(curves["loss"]) >= 2 * _WINDOWS:
            panels[0].legend(loc="upper right", ncols=3, fontsize=8)
        panels[-1].set_xlabel("step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if len(curves["loss"]) == 1:
            panels[-1].set_xticks(curves["loss"][:, 0])
        save(path, figure)


def _draw_steps(axes: "Axes", curve: np.ndarray, colour: str) -> None:
    """Draws a value of the training steps, as logged and smoothed."""
    steps, values = curve.T
    few: Any = {"marker": "o", "markersize": 4} if len(curve) <= 20 else {}
    axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.45, label="as logged")
    axes.plot(steps, _smooth(values), color=colour, linewidth=1.8, label="smoothed", **few)
    _logarithmic(axes, values)


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Returns (step, value) `[n, 2]` in the order of the steps; finite values only."""
    values = {int(row["step"]): row[name] for row in rows if "step" in row and name in row}
    pairs = [(step, float(value)) for step, value in sorted(values.items()) if value is not None]
    curve = np.array(pairs).reshape(-1, 2)
    return curve[np.isfinite(curve[:, 1])]


def _positive(curve: np.ndarray) -> np.ndarray:
    return curve[curve[:, 1] > 0]


_WINDOWS = 30


def _smooth(values: np.ndarray) -> np.ndarray:
    """Returns the mean of a window around each value, as wide as a thirtieth of all values.

    At the start, where losses fall fast, the window is narrower; at the end it is cut off.
    """
    i, n = np.arange(len(values)), len(values)
    half = np.minimum(i, n // (2 * _WINDOWS))
    low, high = i - half, np.minimum(i + half + 1, n)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[high] - sums[low]) / (high - low)


def _logarithmic(axes: "Axes", values: np.ndarray) -> None:
    """Makes the y axis logarithmic, with readable ticks for any range, even for a single value."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = float(values.min()), float(values.max())
    margin = max((high / low) ** 0.06, 1.05)
    axes.set_yscale("log")
    axes.set_ylim(low / margin, high * margin)
    narrow, wide = high < 6 * low, high > 1e3 * low
    steps = LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0))
    axes.yaxis.set_major_locator(MaxNLocator(5) if narrow else steps)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def sweep(
    path: PathLike,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    lines: Mapping[str, Mapping[str, float]],
    *,
    xlabel: str,
) -> None:
    """Draws values over a setting that was varied, as a PNG with one panel for each name.

    `curves` has the values at the positive settings `x`, by name. `lines` has, for each name,
    values to compare with, each under its own name.
    """
    path = check_path(path, ".png")
    order = np.argsort(x)
    at = np.asarray(x, float)[order]
    with styled():
        figure = new_figure(7, 0.4 + 2.6 * len(curves), layout="constrained")
        panels = figure.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (name, values) in zip(panels, curves.items(), strict=True):
            axes.set_title(name)
            axes.plot(at, np.asarray(values, float)[order], color=COLOURS[0], marker="o")
            for k, (of, value) in enumerate(lines.get(name, {}).items()):
                axes.axhline(value, color=COLOURS[k + 1], linestyle="--", label=of)
            if name in lines:
                axes.legend(loc="best", fontsize=8)
            axes.set_xscale("log")
        ticks = at[np.round(np.linspace(0, len(at) - 1, min(len(at), 9))).astype(int)]
        panels[-1].set_xticks(ticks, [f"{each:.3g}" for each in ticks], minor=False)
        panels[-1].set_xticks([], minor=True)
        panels[-1].set_xlabel(xlabel)
        save(path, figure)


def bound(path: PathLike, terms: Mapping[str, np.ndarray]) -> None:
    """Draws the terms of a variational bound over t as a PNG, and the lossy code that they make.

    The last panel is distortion over rate (Ho et al. 2020, section 4.3): to send x_t costs the sum
    of the terms above t, and the receiver shows x̂_0, which has an error.

    `terms` has `vb` `[T]`, the term of each t = 1…T in bits per dimension, `mse` and `x_0_mse`, the
    mean squared errors of eps and x_0, and may have `vb_error`, the standard errors of `vb`. The
    axis of a term is logarithmic if all terms are positive. Raises UserError for other arrays.
    """
    path = check_path(path, ".png")
    lacking = [name for name in _OF_BOUND if name not in terms or np.ndim(terms[name]) != 1]
    lengths = {len(terms[name]) for name in _OF_BOUND if name not in lacking}
    if lacking or len(lengths) != 1:
        raise UserError(f"{path}: a bound has {', '.join(_OF_BOUND)} of one length T")
    vb, t = np.asarray(terms["vb"], np.float64), np.arange(1, lengths.pop() + 1)
    few: Any = {"marker": "o", "markersize": 3} if len(t) <= 30 else {}
    with styled():
        figure = new_figure(13.5, 3.2, layout="constrained")
        *panels, coding = figure.subplots(1, 5)
        drawn = [vb, np.cumsum(vb[::-1])[::-1], terms["mse"], terms["x_0_mse"]]
        for k, (axes, title, values) in enumerate(zip(panels, _BOUND_TITLES, drawn, strict=True)):
            axes.plot(t, values, color=COLOURS[k], linewidth=1.4, **few)
            axes.set(title=title, xlabel="$t$")
            if len(t) > 30:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
            if np.all(np.asarray(values) > 0) and k != 1:
                _logarithmic(axes, np.asarray(values))
        rate, distortion = np.append(drawn[1][1:], 0), np.sqrt(terms["x_0_mse"])
        coding.plot(rate, distortion, color=COLOURS[4], linewidth=1.4, **few)
        coding.set(title=r"RMSE of $\hat x_0$ over the rate", xlabel="bits per dim")
        if "vb_error" in terms:
            error = 2 * np.asarray(terms["vb_error"])
            low = np.maximum(vb - error, vb.min() / 2) if np.all(vb > 0) else vb - error
            panels[0].fill_between(t, low, vb + error, color=COLOURS[0], alpha=0.25, linewidth=0)
        save(path, figure)


_OF_BOUND = ("vb", "mse", "x_0_mse")
_BOUND_TITLES = (
    "term $L_{t-1}$, bits per dim",
    "sum of the terms from $t$ to $T$",
    r"error of $\hat\epsilon$",
    r"error of $\hat x_0$",
)


def schedules(path: PathLike, curves: Mapping[str, np.ndarray]) -> None:
    """Draws noise schedules side by side as a PNG: √ᾱ_t, √(1 - ᾱ_t), log-SNR_t and β_t.

    `curves` maps names to ᾱ, float `[T + 1]`, with ᾱ_0 = 1 for clean data (Ho et al. 2020, equation
    4). If their lengths differ, the axis is t / T. Infinite log-SNR, as of clean data or of pure
    noise, and β = 0 are not drawn.
    """
    path = check_path(path, ".png")
    tables = {name: np.asarray(alpha_bar, np.float64) for name, alpha_bar in curves.items()}
    if not tables or any(table.ndim != 1 or len(table) < 2 for table in tables.values()):
        raise ValueError(f"each ᾱ must be [T + 1]: { {n: t.shape for n, t in tables.items()} }")
    same_length = len({len(table) for table in tables.values()}) == 1
    with styled():
        figure = new_figure(11, 3.2, layout="constrained")
        panels = figure.subplots(1, 4)
        for k, (name, alpha_bar) in enumerate(tables.items()):
            t = np.arange(len(alpha_bar)) / (1 if same_length else len(alpha_bar) - 1)
            few = {"marker": "o", "markersize": 3} if len(t) <= 20 else {}
            for axes, values in zip(panels, _views(alpha_bar).values(), strict=True):
                axes.plot(t, values, color=COLOURS[k % len(COLOURS)], label=name, **few)
        titles = _views(np.array([1.0, 0.5]))
        for axes, title in zip(panels, titles, strict=True):
            axes.set(title=title, xlabel="$t$" if same_length else "$t/T$")
        panels[0].set_ylim(-0.04, 1.04)
        panels[1].set_ylim(-0.04, 1.04)
        beta = np.concatenate([list(_views(table).values())[3] for table in tables.values()])
        if np.any(beta > 0):
            _logarithmic(panels[3], beta[beta > 0])
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6))
        save(path, figure)


def _views(alpha_bar: np.ndarray) -> dict[str, np.ndarray]:
    """Returns each panel's title and its values `[T + 1]`; NaN is not drawn."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_snr = np.log(alpha_bar) - np.log1p(-alpha_bar)
        beta = np.concatenate([[np.nan], 1 - alpha_bar[1:] / alpha_bar[:-1]])
    return {
        r"signal $\sqrt{\bar\alpha_t}$": np.sqrt(alpha_bar),
        r"noise $\sqrt{1-\bar\alpha_t}$": np.sqrt(1 - alpha_bar),
        r"log-SNR": np.where(np.isfinite(log_snr), log_snr, np.nan),
        r"$\beta_t$": np.where(beta > 0, beta, np.nan),
    }
