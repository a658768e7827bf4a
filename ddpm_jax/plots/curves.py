"""Curves as figures: a run's losses, and noise schedules side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.plots.style import COLOURS, PathLike, check_path, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {"loss": "loss", "grad_norm": "gradient norm"}


def loss(path: PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the loss, and the gradient norm where it is known, over the steps, as a PNG.

    `rows` are those of metrics.jsonl: `step` and `loss`, `grad_norm` or neither. A step that was
    logged again after a resume counts as logged last; what is not finite and positive is left out.
    Raises `UserError` where no row has a loss to draw.
    """
    from matplotlib.ticker import MaxNLocator

    path = check_path(path, ".png")
    curves = {name: _curve(rows, name) for name in _PANELS}
    if len(curves["loss"]) == 0:
        raise UserError(f"{path}: no loss is logged yet; train until the first is, then plot")
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    with styled():
        figure = new_figure(7, 0.4 + 2.6 * len(curves), layout="constrained")
        panels = figure.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
        for colour, axes, (name, curve) in zip(COLOURS, panels, curves.items(), strict=False):
            steps, values = curve.T
            smooth = _smooth(values)
            few = {"marker": "o", "markersize": 4} if len(curve) <= 20 else {}
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.45, label="as logged")
            axes.plot(steps, smooth, color=colour, linewidth=1.8, label="smoothed", **few)
            axes.set_title(_PANELS[name])
            _logarithmic(axes, values)
        if len(curves["loss"]) >= 2 * _WINDOWS:
            panels[0].legend(loc="upper right", ncols=2, fontsize=8)
        panels[-1].set_xlabel("step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if len(curves["loss"]) == 1:
            panels[-1].set_xticks(curves["loss"][:, 0])
        save(path, figure)


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(step, value) `[n, 2]` in the order of the steps, one a step, finite and positive."""
    values = {int(row["step"]): row.get(name) for row in rows if "step" in row}
    pairs = [(step, float(values[step] or 0)) for step in sorted(values)]
    curve = np.array(pairs).reshape(-1, 2)
    return curve[np.isfinite(curve[:, 1]) & (curve[:, 1] > 0)]


_WINDOWS = 30


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean of a window centred on each value, a thirtieth of all wide.

    At the start, where losses fall fast, it narrows so as to follow; at the end it is cut off.
    """
    i, n = np.arange(len(values)), len(values)
    half = np.minimum(i, n // (2 * _WINDOWS))
    low, high = i - half, np.minimum(i + half + 1, n)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[high] - sums[low]) / (high - low)


def _logarithmic(axes: "Axes", values: np.ndarray) -> None:
    """A logarithmic y axis that has readable ticks over any range, down to a single value."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = float(values.min()), float(values.max())
    room = max((high / low) ** 0.06, 1.05)
    axes.set_yscale("log")
    axes.set_ylim(low / room, high * room)
    narrow, wide = high < 6 * low, high > 1e3 * low
    steps = LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0))
    axes.yaxis.set_major_locator(MaxNLocator(5) if narrow else steps)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def schedules(path: PathLike, curves: Mapping[str, np.ndarray]) -> None:
    """Draws noise schedules side by side as a PNG: √ᾱ_t, √(1 - ᾱ_t), log-SNR_t and β_t.

    `curves` gives each name its ᾱ, float `[T + 1]` from ᾱ_0 = 1 at clean data on, as in Ho et al.
    2020, eq. 4. Where lengths differ the axis is t / T. What is infinite or zero, as the log-SNR of
    clean data or of pure noise, is left out.
    """
    path = check_path(path, ".png")
    tables = {name: np.asarray(alpha_bar, np.float64) for name, alpha_bar in curves.items()}
    if not tables or any(table.ndim != 1 or len(table) < 2 for table in tables.values()):
        raise ValueError(f"each ᾱ must be [T + 1]: { {n: t.shape for n, t in tables.items()} }")
    alike = len({len(table) for table in tables.values()}) == 1
    with styled():
        figure = new_figure(11, 3.2, layout="constrained")
        panels = figure.subplots(1, 4)
        for k, (name, alpha_bar) in enumerate(tables.items()):
            t = np.arange(len(alpha_bar)) / (1 if alike else len(alpha_bar) - 1)
            few = {"marker": "o", "markersize": 3} if len(t) <= 20 else {}
            for axes, values in zip(panels, _views(alpha_bar).values(), strict=True):
                axes.plot(t, values, color=COLOURS[k % len(COLOURS)], label=name, **few)
        titles = _views(np.array([1.0, 0.5]))
        for axes, title in zip(panels, titles, strict=True):
            axes.set(title=title, xlabel="$t$" if alike else "$t/T$")
        panels[0].set_ylim(-0.04, 1.04)
        panels[1].set_ylim(-0.04, 1.04)
        beta = np.concatenate([list(_views(table).values())[3] for table in tables.values()])
        if np.any(beta > 0):
            _logarithmic(panels[3], beta[beta > 0])
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6))
        save(path, figure)


def _views(alpha_bar: np.ndarray) -> dict[str, np.ndarray]:
    """Each panel's title and its values `[T + 1]`, NaN where there is none to draw."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_snr = np.log(alpha_bar) - np.log1p(-alpha_bar)
        beta = np.concatenate([[np.nan], 1 - alpha_bar[1:] / alpha_bar[:-1]])
    return {
        r"signal $\sqrt{\bar\alpha_t}$": np.sqrt(alpha_bar),
        r"noise $\sqrt{1-\bar\alpha_t}$": np.sqrt(1 - alpha_bar),
        r"log-SNR": np.where(np.isfinite(log_snr), log_snr, np.nan),
        r"$\beta_t$": np.where(beta > 0, beta, np.nan),
    }
