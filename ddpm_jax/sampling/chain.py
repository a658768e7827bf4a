"""The chain of one experiment as a compiled program over the mesh.

The noise of sample i depends only on the seed and on i. So the first ten of a thousand samples
equal a draw of ten samples, on any number of devices and in batches of any size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ddpm_jax.config import SampleConfig, check_seed, check_variance, shown_channels
from ddpm_jax.diffusion import (
    Row,
    Sampler,
    advance,
    chain_calls,
    make_sampler,
    make_time_grid,
    plan_chain,
    sample_noise,
    unfit_ends,
)
from ddpm_jax.errors import UserError, require_whole
from ddpm_jax.experiment import Experiment
from ddpm_jax.models.conditioning import NO_CONDITIONING, require_taken
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.memory import free_bytes, memory_errors, require_memory
from ddpm_jax.runtime.mesh import batch_sharding, fetch, replicated, shard_rows
from ddpm_jax.runtime.random import sample_keys
from ddpm_jax.runtime.switches import pinned, require_compiling
from ddpm_jax.sampling.denoiser import is_guided, make_denoiser
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.typing import Conditioning, Denoiser, Examples, Operator

# A chain is about this many calls of the compiled program: the frames of a trajectory.
_CHUNKS = 50

Progress = Callable[[int, int], None]


class Start(NamedTuple):
    """Where a chain starts if not from noise: at x `[N, …]`, taken as x_t at the time t in 1…T."""

    x: np.ndarray
    t: int


class SampleProgram:
    """The chain of one experiment and one set of options, compiled once for each batch size."""

    @pinned()
    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        options: SampleConfig,
        *,
        times: np.ndarray | None = None,
        operators: Sequence[Callable[[Denoiser, Any], Denoiser]] = (),
    ):
        """`times` are the chain's, and may go up and down; None for the grid of the options.

        `operators` transform the denoiser after clipping. Each call brings their data.

        Raises UserError for steps or guidance that this network can't give, ValueError for times
        that `plan_chain` refuses.
        """
        require_compiling()
        T = experiment.schedule.T
        self.experiment, self.mesh, self.options = experiment, mesh, options
        self.operators = tuple(operators)
        if options.steps is not None and options.steps > T:
            raise UserError(f"sample.steps is {options.steps}; it must be at most T, which is {T}")
        if is_guided(options) and experiment.config.train.label_dropout == 0:
            raise UserError(
                "sample.guidance needs a network trained with some labels dropped "
                "(train.label_dropout above 0), and this one was not"
            )
        check_variance(options.sampler, experiment.config.diffusion)
        chosen = options.sampler
        self.sampler: Sampler = make_sampler(chosen.name, experiment.schedule, **chosen.options)
        if times is None:
            fractional = experiment.model.fractional_times
            times = make_time_grid(
                options.grid.name,
                experiment.schedule,
                options.steps or T,
                fractional=fractional,
                **options.grid.options,
            )
        self.times = times
        self.rows = self._plan(times)
        self.cautions = unfit_ends(experiment.schedule)
        """A line for each reason why chains from pure noise can't give the data."""
        if not self.cautions and times[0] < T:
            self.cautions = unfit_ends(experiment.schedule, float(times[0]))
        shardings = self._carry_shardings()
        self._start = jax.jit(self._first_carry, out_shardings=shardings)
        # The carry is donated: a chain holds one state, not two.
        self._advance = jax.jit(
            self._some_steps,
            donate_argnums=1,
            out_shardings=shardings,
            compiler_options=compiler_options(mesh.devices.flat[0]),
        )

    @property
    def calls(self) -> int:
        """The number of times that a chain calls the network."""
        return chain_calls(self.sampler, self.times) * (2 if is_guided(self.options) else 1)

    def _plan(self, times: np.ndarray) -> Row:
        return plan_chain(self.sampler, self.experiment.schedule, times)

    def _first_carry(self, seed: jax.Array, indices: jax.Array, x: Examples | None) -> Any:
        if x is None:
            shape = self.experiment.config.data.example_shape
            x = sample_noise(sample_keys(seed, indices), shape)
        return self.sampler.init(x)

    def _some_steps(
        self,
        params: Any,
        carry: Any,
        rows: Row,
        seed: jax.Array,
        indices: jax.Array,
        conditioning: Conditioning,
        operands: Sequence[Any],
    ) -> Any:
        operators = [Operator(*each) for each in zip(self.operators, operands, strict=True)]
        denoiser = make_denoiser(
            self.experiment, params, conditioning, self.options, operators=operators
        )
        return advance(self.sampler, denoiser, carry, rows, sample_keys(seed, indices))

    def traced(
        self, params: Any, seed: jax.Array, indices: jax.Array, conditioning: Conditioning
    ) -> Examples:
        """Returns the samples of these numbers, uint32 `[B]`: the whole chain, for tracing."""
        carry = self._first_carry(seed, indices, None)
        return self._some_steps(params, carry, self.rows, seed, indices, conditioning, ()).x

    def _carry_shardings(self) -> Any:
        """Returns a sharding for each leaf: over all devices along its batch axis if it has one.

        The batch axis is the one whose length follows the batch's.
        """
        seed = jax.ShapeDtypeStruct((), np.uint32)
        one, two = (
            jax.eval_shape(self._first_carry, seed, jax.ShapeDtypeStruct((size,), np.uint32), None)
            for size in (1, 2)
        )

        def rule(one: jax.ShapeDtypeStruct, two: jax.ShapeDtypeStruct) -> NamedSharding:
            pairs = enumerate(zip(one.shape, two.shape, strict=True))
            axis = next((axis for axis, (a, b) in pairs if a != b), None)
            if axis is None:
                return replicated(self.mesh)
            return batch_sharding(self.mesh, leading=axis)

        return jax.tree.map(rule, one, two)

    @pinned()
    def __call__(
        self,
        params: Any,
        num: int,
        *,
        seed: int,
        first: int = 0,
        labels: Sequence[int] | int | None = None,
        conditioning: Conditioning = NO_CONDITIONING,
        operands: Sequence[Any] = (),
        start: Start | None = None,
        num_trajectories: int = 0,
        progress: Progress = lambda done, total: None,
    ) -> Samples:
        """Draws samples first … first+num-1 of a seed.

        Every process of the mesh must call it, and gets all samples. They take the `labels` in
        turn, one or several; None takes all classes. `conditioning` has what else the network
        takes, an array `[num, …]` for each part. `operands` has the data of each operator, a tree
        of arrays `[num, …]`. A chain with a `start` takes the times of the grid below it. The first
        `num_trajectories` samples (within one batch) leave their trajectory, at about 50 times.
        `progress` gets the intervals done and their total. Raises UserError, before anything is
        drawn, for numbers and labels out of range, and for arrays that are not `num` long or that
        the network does not take or lacks; OutOfMemory for more samples than memory holds.
        """
        check_seed(seed)
        check_range(first, num)
        self.require_memory(num, num_trajectories)
        drawn_labels = self._check_labels(first, num, labels)
        given = self._check_given(num, conditioning, operands, drawn_labels)
        times, rows = self._from(start, num)
        size, steps = self._batch_size(num, num_trajectories), len(times) - 1
        batches = math.ceil(num / size)
        shape = (num, *self.experiment.config.data.example_shape)
        samples, frames = np.empty(shape, np.float32), []
        for batch in range(batches):
            indices = np.arange(batch * size, (batch + 1) * size)
            places = np.minimum(indices, num - 1)  # One compiled shape serves the last batch too.
            chain = self._run(
                params,
                rows,
                key=np.uint32(seed),
                indices=shard_rows((first + indices).astype(np.uint32), self.mesh),
                x=None if start is None else self._shard(start.x.astype(np.float32), places),
                given=self._shard(given, places),
            )
            for done, carry in chain:
                if batch == 0 and num_trajectories:
                    frames.append(fetch(carry.x)[:num_trajectories])
                if done == steps:
                    samples[indices[indices < num]] = fetch(carry.x)[: num - batch * size]
                if done:
                    progress(batch * steps + done, batches * steps)
        shown = shown_channels(self.experiment.config.data)
        names = () if drawn_labels is None else self.experiment.class_names
        kept = times[[*range(0, steps, _chunk(steps)), steps]] if frames else None
        stack = np.stack(frames)[:, :num] if frames else None
        return Samples(samples, drawn_labels, stack, kept, names, shown)

    def require_memory(self, num: int, num_trajectories: int = 0) -> None:
        """Raises OutOfMemory if the host can't hold `num` samples and so many trajectories."""
        frames = math.ceil((len(self.times) - 1) / _chunk(len(self.times) - 1)) + 1
        trajectories = min(num_trajectories, num, self.options.batch_size)
        each = 4 * (1 + math.prod(self.experiment.config.data.example_shape))
        what = f"{num:,} samples" + f" with {trajectories:,} trajectories" * bool(trajectories)
        need = each * (num + frames * trajectories)
        require_memory(need, free_bytes(), what, "draw fewer, or draw them in parts")

    def _shard(self, arrays: Any, places: np.ndarray) -> Any:
        return jax.tree.map(lambda array: shard_rows(array[places], self.mesh), arrays)

    def _run(
        self,
        params: Any,
        rows: Row,
        *,
        key: np.uint32,
        indices: jax.Array,
        x: jax.Array | None,
        given: tuple[Conditioning, Sequence[Any]],
    ) -> Iterator[tuple[int, Any]]:
        """Yields the intervals done and the carry, before the first and after each chunk."""
        steps, fix = len(rows.t), "lower sample.batch_size"
        chunk = _chunk(steps)
        with memory_errors(fix):
            carry = jax.block_until_ready(self._start(key, indices, x))
        yield 0, carry
        for begin in range(0, steps, chunk):
            end = min(begin + chunk, steps)
            piece = jax.tree.map(lambda leaf, a=begin, b=end: leaf[a:b], rows)
            with memory_errors(fix):
                carry = self._advance(params, carry, piece, key, indices, *given)
                jax.block_until_ready(carry)
            yield end, carry

    def _from(self, start: Start | None, num: int) -> tuple[np.ndarray, Row]:
        """Returns the times and the rows of a chain that starts there."""
        if start is None:
            return self.times, self.rows
        _require_floats("start.x", start.x)
        shape = (num, *self.experiment.config.data.example_shape)
        if start.x.shape != shape:
            raise UserError(f"start.x has the shape {start.x.shape}; it must be {shape}")
        if start.t == self.times[0]:
            return self.times, self.rows
        if not 1 <= start.t <= self.experiment.schedule.T or (np.diff(self.times) > 0).any():
            raise UserError(
                f"start.t is {start.t}; it must be in 1 … {self.experiment.schedule.T}, or the "
                "first time of a chain that goes up and down"
            )
        times = np.append(start.t, self.times[self.times < start.t]).astype(self.times.dtype)
        return times, self._plan(times)

    def _batch_size(self, num: int, num_trajectories: int) -> int:
        """Returns the samples of each batch: no more than it takes, as they all have one shape."""
        most, devices = min(num, self.options.batch_size), self.mesh.size
        each = max(math.ceil(num / math.ceil(num / most)), min(num_trajectories, most))
        return math.ceil(each / devices) * devices

    def _check_given(
        self, num: int, conditioning: Conditioning, operands: Sequence[Any], labels: Any
    ) -> tuple[Conditioning, tuple[Any, ...]]:
        """Returns conditioning and operators' data, with a row for each sample."""
        rows = jax.tree.map(lambda x: _rows("an operator's data", x, num), tuple(operands))
        return self._check_conditioning(num, conditioning)._replace(labels=labels), rows

    def _check_conditioning(self, num: int, given: Conditioning) -> Conditioning:
        """Returns the parts besides labels as float32 and int32 arrays, one row a sample."""
        if given.labels is not None:
            raise UserError("conditioning.labels: give the classes of the samples as labels")
        require_taken(self.experiment.model, given)

        def part(name: str, dtype: Any) -> Any:
            found = getattr(given, name)
            return None if found is None else _rows(f"conditioning.{name}", found, num, dtype)

        T = self.experiment.schedule.T
        if given.image is not None:
            _require_floats("conditioning.image", given.image)
        if given.image_noise is not None:
            levels = np.asarray(given.image_noise)
            whole = levels.dtype.kind in "iu"
            if not whole or ((levels < 0) | (levels > T)).any():
                raise UserError(f"conditioning.image_noise must be whole numbers in 0 … {T}")
        return Conditioning(
            image=part("image", np.float32), image_noise=part("image_noise", np.int32)
        )

    def _check_labels(
        self, first: int, num: int, labels: Sequence[int] | int | None
    ) -> np.ndarray | None:
        classes = self.experiment.num_classes
        if classes == 0:
            if labels is not None:
                raise UserError("labels: this network was trained without labels; leave them out")
            return None
        if labels is None:
            return (np.arange(first, first + num) % classes).astype(np.int32)
        given = np.ravel(labels)
        check_label_count(len(given), num)
        for label in given.tolist():
            if type(label) is not int or not 0 <= label < classes:
                known = f"they are the whole numbers 0 … {classes - 1}"
                raise UserError(f"labels: there is no class {label}; {known}")
        return np.resize(given.astype(np.int32), num)


def check_range(first: int, num: int) -> None:
    """Raises UserError unless first … first+num-1 are samples: a seed has 2³² of them."""
    require_whole("the number of samples", num, most=2**32)
    require_whole("first", first, 0, 2**32 - 1)
    if first + num > 2**32:
        raise UserError(f"first is {first}: the last sample of a seed is {2**32 - 1}; take another")


def check_label_count(count: int, num: int) -> None:
    """Raises UserError unless `num` samples can take so many labels in turn."""
    if not 1 <= count <= num:
        raise UserError(f"there are {count} labels for {num} samples; give at most {num}")


def _rows(name: str, array: Any, num: int, dtype: Any = None) -> np.ndarray:
    """Returns the array; raises UserError unless it has one row for each of `num` samples."""
    if np.ndim(array) == 0 or len(array) != num:
        raise UserError(f"{name} has the shape {np.shape(array)}; it must have {num} rows")
    return np.asarray(array, dtype)


def _require_floats(name: str, array: Any) -> None:
    dtype = np.asarray(array).dtype
    if not np.issubdtype(dtype, np.floating):
        raise UserError(f"{name} has the type {dtype}; give floats, for pictures in [-1, 1]")


def _chunk(steps: int) -> int:
    """Returns the intervals of one call: a divisor of the chain if one is near, to compile once."""
    wanted = max(1, round(steps / _CHUNKS))
    near = [size for size in range(wanted, min(3 * wanted, steps) + 1) if steps % size == 0]
    return near[0] if near else wanted
