"""From parameters to samples: the denoiser, and the compiled chain over the mesh.

Sample i of a seed is drawn from noise that is folded from i, so the first ten of a thousand are
the ten, on any number of devices and in batches of any size.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import plots
from ddpm_jax.config import SampleConfig, check_seed
from ddpm_jax.diffusion import (
    Sampler,
    advance,
    classifier_free_guidance,
    clip,
    make_sampler,
    sample_noise,
    time_steps,
)
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment
from ddpm_jax.files import StoragePath, replacing
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.mesh import batch_sharding, fetch, shard_rows
from ddpm_jax.runtime.random import sample_keys
from ddpm_jax.typing import Conditioning, Denoiser, Examples, Labels, Prediction, Timesteps

# About this many calls of the compiled program a chain: enough for a bar that moves and a film.
_CHUNKS = 50


def make_denoiser(
    experiment: Experiment, params: Any, labels: Labels | None, options: SampleConfig
) -> Denoiser:
    """Closes a network over its parameters, labels, guidance and clipping.

    `labels` are int `[B]` in 0…num_classes, where num_classes itself stands for "none"; None for a
    network without labels.
    """
    parameterization, schedule = experiment.parameterization, experiment.schedule

    def under(labels: Labels | None) -> Denoiser:
        def denoise(x_t: Examples, t: Timesteps) -> Prediction:
            output = experiment.apply(params, x_t, t, Conditioning(labels=labels), train=False)
            return parameterization.to_prediction(schedule, output, x_t, t)

        return denoise

    denoiser = under(labels)
    if labels is not None and options.guidance > 0:
        nothing = jnp.full_like(labels, experiment.num_classes)
        denoiser = classifier_free_guidance(denoiser, under(nothing), options.guidance)
    if not options.clip:
        return denoiser

    def clipped(x_t: Examples, t: Timesteps) -> Prediction:
        return clip(denoiser(x_t, t), schedule, x_t, t)

    return clipped


class Samples(NamedTuple):
    """What a call of `SampleProgram` gives, as float32 on the data's scale."""

    samples: np.ndarray
    """`[N, …]`"""
    labels: np.ndarray | None
    """int32 `[N]`; num_classes stands for a sample of no class; None without labels."""
    frames: np.ndarray | None
    """`[F, n, …]`: the first n samples on their way from noise to data, if asked for."""
    times: np.ndarray | None
    """int32 `[F]`: the frames' times, from T down to 0; None without frames."""


class SampleProgram:
    """The chain of one experiment and one set of options, compiled once for each batch size."""

    def __init__(self, experiment: Experiment, mesh: Mesh, options: SampleConfig):
        """Raises UserError for steps or guidance that this network can't give."""
        T = experiment.config.diffusion.timesteps
        self.experiment, self.mesh, self.options = experiment, mesh, options
        if options.steps is not None and options.steps > T:
            raise UserError(f"sample.steps is {options.steps}; it must be at most T, which is {T}")
        if options.guidance > 0 and experiment.config.train.label_dropout == 0:
            raise UserError(
                "sample.guidance needs a network trained with some labels dropped "
                "(train.label_dropout above 0), and this one was not"
            )
        chosen = options.sampler
        self.sampler: Sampler = make_sampler(chosen.name, experiment.schedule, **chosen.options)
        self.times = time_steps(T, options.steps or T)
        rows = batch_sharding(mesh)
        self._start = jax.jit(self._first_carry, out_shardings=rows)
        # The carry is donated: a chain holds one state, not two.
        self._advance = jax.jit(
            self._some_steps,
            donate_argnums=1,
            out_shardings=rows,
            compiler_options=compiler_options(mesh.devices.flat[0]),
        )

    def _first_carry(self, seed: jax.Array, indices: jax.Array) -> Any:
        shape = self.experiment.config.data.example_shape
        return self.sampler.init(sample_noise(sample_keys(seed, indices), shape))

    def _some_steps(
        self, params: Any, carry: Any, times: jax.Array, seed: jax.Array, indices: Any, labels: Any
    ) -> Any:
        denoiser = make_denoiser(self.experiment, params, labels, self.options)
        return advance(self.sampler, denoiser, carry, times, sample_keys(seed, indices))

    def __call__(
        self,
        params: Any,
        num: int,
        *,
        seed: int,
        first: int = 0,
        labels: Sequence[int] | None = None,
        num_trajectories: int = 0,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Samples:
        """Draws samples first … first+num-1 of a seed.

        Every process of the mesh must call it, and gets all of them.

        `labels` has one class for each sample, or None for each class in turn. The first
        `num_trajectories` samples (within one batch) leave their trajectory, at about 50 moments.
        `progress` is told the network steps done and to do. Raises UserError for a label that
        does not exist, labels that are not `num` many, or a number or seed out of range.
        """
        check_seed(seed)
        if num < 1:
            raise UserError(f"the number of samples is {num}; it must be at least 1")
        drawn_labels = self._check_labels(first, num, labels)
        size = self._batch_size(num)
        chunk = _chunk(len(self.times) - 1)
        batches, per_batch = math.ceil(num / size), len(self.times) - 1
        samples, frames = [], []
        for batch in range(batches):
            # The last batch is filled up, so that one compiled shape serves all.
            places = np.arange(batch * size, (batch + 1) * size, dtype=np.uint32)
            indices = shard_rows(places + np.uint32(first), self.mesh)
            rows = None
            if drawn_labels is not None:
                padded = drawn_labels[np.minimum(places, num - 1)]
                rows = shard_rows(padded, self.mesh)
            key = np.uint32(seed)
            carry = self._start(key, indices)
            filming = num_trajectories if batch == 0 else 0
            if filming:
                frames.append(fetch(carry.x)[:filming])
            for start in range(0, per_batch, chunk):
                times = self.times[start : start + chunk + 1]
                carry = self._advance(params, carry, times, key, indices, rows)
                if filming:
                    frames.append(fetch(carry.x)[:filming])
                jax.block_until_ready(carry)
                progress(batch * per_batch + start + len(times) - 1, batches * per_batch)
            samples.append(fetch(carry.x))
        return Samples(
            np.concatenate(samples)[:num],
            drawn_labels,
            np.stack(frames)[:, :num] if frames else None,
            self.times[[*range(0, per_batch, chunk), per_batch]] if frames else None,
        )

    def _batch_size(self, num: int) -> int:
        devices = self.mesh.size
        return math.ceil(min(num, self.options.batch_size) / devices) * devices

    def _check_labels(
        self, first: int, num: int, labels: Sequence[int] | None
    ) -> np.ndarray | None:
        classes = self.experiment.num_classes
        if classes == 0:
            if labels is not None:
                raise UserError("--labels: this network was trained without labels; leave them out")
            return None
        if labels is None:
            return np.arange(first, first + num, dtype=np.int32) % classes
        if len(labels) != num:
            raise UserError(f"--labels has {len(labels)} labels for {num} samples; give one each")
        wrong = [label for label in labels if not 0 <= label < classes]
        if wrong:
            raise UserError(f"--labels: there is no class {wrong[0]}; they are 0 … {classes - 1}")
        return np.asarray(labels, np.int32)


def animation_size(shape: tuple[int, ...]) -> int:
    """How many examples of a shape a film shows: what an eye can follow."""
    return 64 if len(shape) == 3 else 2_000


def _chunk(steps: int) -> int:
    """The steps of one dispatch: they divide the chain if they can, so one program serves all."""
    wanted = max(1, round(steps / _CHUNKS))
    near = [size for size in range(wanted, min(3 * wanted, steps) + 1) if steps % size == 0]
    return near[0] if near else wanted


def write_samples(path: StoragePath, drawn: Samples) -> None:
    """Writes samples in the form that the path's ending asks for: .png, .gif or .npz."""
    if path.suffix == ".npz":
        arrays = {"samples": drawn.samples}
        if drawn.labels is not None:
            arrays["labels"] = drawn.labels
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    elif path.suffix == ".gif":
        if drawn.frames is None:
            raise ValueError("a film needs samples drawn with num_trajectories")
        plots.animation(path, drawn.frames)
    else:
        plots.grid(path, drawn.samples, columns=class_columns(drawn.labels))


def class_columns(labels: np.ndarray | None) -> int | None:
    """Returns the number of classes if labels run through them in turn, a class a column."""
    if labels is None or len(labels) == 0:
        return None
    classes = int(labels.max()) + 1
    in_turn = len(labels) > classes > 1 and np.array_equal(labels, np.arange(len(labels)) % classes)
    return classes if in_turn else None
