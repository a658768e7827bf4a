"""The runs that a page may open: those in the folders that were given, and those drawn on it."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.config import Config
from ddpm_jax.diffusion import SAMPLERS, TIME_GRIDS
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.denoiser import network_denoiser
from ddpm_jax.sampling.editing import EDITS
from ddpm_jax.sampling.run import Run, load
from ddpm_jax.studio.requests import Opening
from ddpm_jax.training.logging.json_lines import METRICS, read_rows
from ddpm_jax.typing import is_image

_MOST_OPEN = 4
"""Runs whose parameters are held at once, and drawings that are kept."""
_MOST_ROWS = 400
"""Points of a loss curve."""
_LIVE_SECONDS = 90
"""A run that has written nothing for longer is taken as stopped."""


class Opened(NamedTuple):
    """A run with its parameters."""

    run: Run
    said: list[str]
    """What it had to say when it was opened."""
    score: Callable[[np.ndarray, Any, Any], np.ndarray]
    """(points [N, 2], t, label) -> ∇ log q_t, by its network."""


class Library:
    """All runs by name; nothing in it opens any other path."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = [*folders]
        self._opened: OrderedDict[Any, Opened] = OrderedDict()
        self._drawings: OrderedDict[str, Opened] = OrderedDict()
        self._count, self._lock = 0, threading.Lock()

    def folder(self, name: str) -> Path:
        """Returns the folder of a run; raises UserError for a name that is not listed."""
        found = self._found()
        if name not in found:
            raise UserError(f"there is no run {name!r} in the folders that this studio was given")
        return found[name]

    def _found(self) -> dict[str, Path]:
        """Returns the given folders that are runs, and the runs right below the others."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            if (folder / "config.json").is_file():
                found[str(folder)] = folder
                continue
            for each in sorted(folder.iterdir()) if folder.is_dir() else ():
                inside = folder.resolve() in each.resolve().parents
                if inside and (each / "config.json").is_file():
                    found[str(each)] = each
        return found

    def listed(self) -> list[dict[str, Any]]:
        """Returns a line for each run: its name, kind, steps, and whether it trains just now."""
        rows = []
        for name, folder in self._found().items():
            try:
                config = _config(folder)
                points = not is_image(config.data.example_shape)
                row = {"points": points, **_progress(folder, config, rows=1)}
            except (UserError, OSError) as error:
                row = {"problem": str(error)}
            rows.append({"name": name, **row})
        for name, opened in list(self._drawings.items()):
            row = {"points": True, "step": opened.run.step, "steps": opened.run.step, "live": False}
            rows.append({"name": name, **row})
        return rows

    def progress(self, name: str) -> dict[str, Any]:
        """Returns how far a run's training is: its losses, previews and the seconds left."""
        folder = self.folder(name)
        return _progress(folder, _config(folder), rows=_MOST_ROWS)

    def preview(self, name: str, step: int) -> bytes:
        """Returns the preview of a step, as a PNG."""
        path = self.folder(name) / "samples" / f"{step:08}.png"
        if not path.is_file():
            raise UserError(f"step {step} has no preview")
        return path.read_bytes()

    def about(self, name: str) -> dict[str, Any]:
        """Returns what can be chosen for a run, and what its settings are if nothing is."""
        drawn = self._drawings.get(name)
        if drawn is not None:
            run = drawn.run
            choices: dict[str, Any] = {"checkpoints": [], "params": [], "classes": []}
            return {**choices, "best": None, **_choices(run.config), "lengths": False}
        folder = self.folder(name)
        checkpoints = Checkpoints(folder)
        steps, best = checkpoints.steps(), checkpoints.best()
        config = checkpoints.config(steps[-1]) if steps else _config(folder)
        named = (checkpoints.data(steps[-1]) or {}).get("classes", ()) if steps else ()
        count = config.model.num_classes
        return {
            "checkpoints": steps,
            "best": None if best is None else best.step,
            "params": [*config.train.averages, "raw"],
            "lengths": (folder / "snapshots").is_dir(),
            "classes": (named or [*map(str, range(count))]) if count else [],
            **_choices(config),
        }

    def open(self, asked: Opening) -> Opened:
        """Returns a run with its parameters; holds the last few. UserError as `load` raises."""
        drawn = self._drawings.get(asked.run)
        if drawn is not None:
            return drawn
        folder = self.folder(asked.run)
        with self._lock:  # Two pages that open one run at once load it once.
            checkpoints = Checkpoints(folder)
            steps, best = checkpoints.steps(), checkpoints.best()
            # What these two names mean changes while the run trains.
            meant = {None: steps[-1] if steps else None, "best": best and best.step}
            step = meant.get(asked.checkpoint)
            key = (asked.run, asked.checkpoint, step, asked.params, asked.ema_length)
            if key not in self._opened:
                said: list[str] = []
                more: dict[str, Any] = {"params": asked.params, "ema_length": asked.ema_length}
                run = load(folder, checkpoint=asked.checkpoint, report=said.append, **more)
                self._opened[key] = opened_of(run, said)
                while len(self._opened) > _MOST_OPEN:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(key)
            return self._opened[key]

    def keep(self, run: Run) -> str:
        """Adds a run that is in memory only, and returns its name; the oldest makes room."""
        with self._lock:
            self._count += 1
            name = f"drawing {self._count}"
            self._drawings[name] = opened_of(run, [])
            while len(self._drawings) > _MOST_OPEN:
                self._drawings.popitem(last=False)
        return name


def opened_of(run: Run, said: list[str]) -> Opened:
    """Returns a run with its score, compiled when it is first asked for."""

    @jax.jit
    def score(params: Any, x: jax.Array, t: jax.Array, labels: Any) -> jax.Array:
        conditioning = run.experiment.condition(labels)
        eps = network_denoiser(run.experiment, params, conditioning)(x, t).eps
        # The network's eps is the noise of x_t; score = -eps / sqrt(1 - ᾱ_t).
        scale = jnp.asarray(run.experiment.schedule.sqrt_one_minus_alpha_bar, jnp.float32)[t]
        return -eps / scale

    def call(x: np.ndarray, t: int, label: int | None) -> np.ndarray:
        count = run.experiment.num_classes
        none = count if run.config.train.label_dropout else 0
        chosen = none if label is None or label < 0 else label
        labels = jnp.full((len(x),), chosen, jnp.int32) if count else None
        return np.asarray(score(run.params, jnp.asarray(x, jnp.float32), jnp.asarray(t), labels))

    return Opened(run, said, call)


def _config(folder: Path) -> Config:
    path = folder / "config.json"
    return configs.loads(path.read_bytes(), str(path))


def _choices(config: Config) -> dict[str, Any]:
    """Returns the choices that follow from a config alone."""
    shape, T = config.data.example_shape, config.diffusion.timesteps
    settled = config.sample.settled(T)
    snr = config.diffusion.noise_schedule.log_snr[1:]
    finite = snr[np.isfinite(snr)]
    return {
        "shape": list(shape),
        "points": not is_image(shape),
        "draws": not config.diffusion.trained_objective.classifies,
        "T": T,
        "steps": settled.steps or T,
        "sampler": settled.sampler.name,
        "samplers": [*SAMPLERS],
        "grid": settled.grid.name,
        "grids": [*TIME_GRIDS],
        "guidance": settled.guidance,
        "guidable": config.train.label_dropout > 0,
        "log_snr": [float(finite.min()), float(finite.max())],
        "edits": [*EDITS],
    }


def _progress(folder: Path, config: Config, *, rows: int) -> dict[str, Any]:
    path = folder / METRICS
    losses = [row for row in read_rows(path) if "images_per_s" in row]
    step = losses[-1]["step"] if losses else 0
    steps = config.train.steps
    recent = path.is_file() and time.time() - path.stat().st_mtime < _LIVE_SECONDS
    live = recent and step < steps
    left = None
    if live and losses:
        speed = np.median([row["images_per_s"] for row in losses[-5:]])
        left = float((steps - step) * config.train.batch_size / speed) if speed > 0 else None
    thin = losses[:: -max(1, -(-len(losses) // rows))][::-1]
    finite = [[row["step"], row["loss"]] for row in thin if np.isfinite(row["loss"])]
    names = (folder / "samples").glob("*.png") if rows > 1 else ()
    previews = sorted(int(each.stem) for each in names if each.stem.isdecimal())
    said = {"step": step, "steps": steps, "live": live, "seconds_left": left}
    return said | {"losses": finite, "previews": previews}
