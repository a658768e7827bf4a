"""A chain whose every step a page sees."""

import time
from typing import Any

import numpy as np

from ddpm_jax.config import shown_channels
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.edited import Edited
from ddpm_jax.sampling.editing import edit
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.sampling.watching import Seen
from ddpm_jax.studio.frames import columns_of, shown_frame
from ddpm_jax.studio.library import Library, Opened
from ddpm_jax.studio.requests import Drawing
from ddpm_jax.studio.results import Frames, Result, Results
from ddpm_jax.studio.streams import Stream


def draw(library: Library, results: Results, asked: Drawing, stream: Stream) -> None:
    """Draws what is asked for; sends `start`, a `frame` for each step that is shown, and `done`."""
    began = time.monotonic()
    opened = library.open(asked)
    config = opened.run.config
    shape = config.data.example_shape
    asked.check(shape)
    watcher = _Watcher(stream, asked, opened, library)
    run = opened.run.watched(watcher)
    edited = _edited(run, asked, results) if asked.how else None
    samples = _sampled(run, asked) if edited is None else edited.samples
    samples = samples._replace(frames=watcher.frames.stack())
    name = results.add(Result(samples, edited))
    labels = None
    if samples.labels is not None:
        known = samples.class_names or [str(each) for each in range(opened.run.num_classes)]
        labels = ["no class" if each < 0 else known[each] for each in samples.labels]
    values = {} if edited is None else edited.values
    seconds = time.monotonic() - began
    stream.send(
        "done", {"result": name, "labels": labels, "values": values, "seconds": round(seconds, 2)}
    )


def _sampled(run: Run, asked: Drawing) -> Samples:
    labels = None if asked.labels is None else [*asked.labels]
    more: dict[str, Any] = {"batch_size": asked.num, **asked.settings}
    return run.sample(asked.num, seed=asked.seed, first=asked.first, labels=labels, **more)


def _edited(run: Run, asked: Drawing, results: Results) -> Edited:
    shape = run.config.data.example_shape
    if asked.picture is None:
        raise UserError("choose a sample, or drop a picture, first")
    picture, second = results.sample(asked.picture, shape), None
    if asked.second is not None:
        second = results.sample(asked.second, shape)
    if asked.mask is not None:
        second = np.zeros(int(np.prod(shape[:2])), bool)
        wrong = [each for each in asked.mask if not 0 <= each < second.size]
        if wrong:
            raise UserError(f"mask: there is no pixel {wrong[0]}; they are 0 … {second.size - 1}")
        second[list(asked.mask)] = True
        second = second.reshape(shape[:2])
    labels = None if asked.labels is None else run.labels([*asked.labels])
    more: dict[str, Any] = {"batch_size": asked.num, **asked.settings, **asked.options}
    seeds: dict[str, Any] = {"num": asked.num, "seed": asked.seed, "first": asked.first}
    return edit(run, str(asked.how), picture, second, labels=labels, **seeds, **more)


class _Watcher:
    """Sends the steps of a chain to a page, and collects the frames of its animation."""

    def __init__(self, stream: Stream, asked: Drawing, opened: Opened, library: Library):
        self.stream, self.asked, self.opened, self.library = stream, asked, opened, library
        self.started = False
        self.frames: Frames

    def __call__(self, seen: Seen) -> None:
        self.stream.check()
        config = self.opened.run.config
        # A batch is a multiple of the devices; the page sees the samples that it asked for.
        seen = seen._replace(x=seen.x[: self.asked.num], x_0=seen.x_0[: self.asked.num])
        if seen.done == 0:  # An edit may follow several chains; the last one is the animation.
            self.frames = Frames(seen.total, config.data.example_shape)
        self.frames.see(seen.done, seen.x)
        if not self.started:
            self.started = True
            self.stream.send("start", self._start(seen))
        ends = seen.done in (0, seen.total)
        if not (ends or self.asked.every or self.stream.due()):
            return
        x_0 = seen.x_0 if seen.done else None
        shown = shown_frame(seen.x, x_0, shown_channels(config.data))
        self.stream.frame("frame", {"done": seen.done, "of": seen.total, "t": seen.t, **shown})

    def _start(self, seen: Seen) -> dict[str, Any]:
        run = self.opened.run
        name = self.asked.run
        folder = name if name.startswith("drawing ") else str(self.library.folder(name))
        return {
            "num": len(seen.x),
            "columns": columns_of(len(seen.x)),
            "shape": [*seen.x.shape[1:]],
            "about": f"step {run.step:,} of training, parameters {run.name}",
            "said": self.opened.said,
            "command": self.asked.command(folder),
        }
