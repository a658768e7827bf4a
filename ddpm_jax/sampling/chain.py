"""The chain of one experiment as a compiled program over the mesh.

The noise of sample i depends only on the seed and on i. So the first ten of a thousand samples
equal a draw of ten samples, on any number of devices and in batches of any size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ddpm_jax.config import SampleConfig, check_seed, check_variance, shown_channels
from ddpm_jax.config.choices import naming
from ddpm_jax.diffusion import (
    Row,
    Sampler,
    SamplerOperator,
    advance,
    begin,
    chain_calls,
    make_sampler,
    make_time_grid,
    plan_chain,
    sample_noise,
    unfit_ends,
)
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment
from ddpm_jax.models.conditioning import NO_CONDITIONING, require_taken
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.memory import free_bytes, memory_errors, require_memory
from ddpm_jax.runtime.mesh import batch_sharding, fetch, gather_over, replicated, shard_rows
from ddpm_jax.runtime.random import sample_keys
from ddpm_jax.runtime.switches import pinned, require_compiling
from ddpm_jax.sampling.denoiser import is_guided, make_denoiser, weight_of
from ddpm_jax.sampling.given import check_label_count, check_range, require_floats, rows_for
from ddpm_jax.sampling.guides import NO_GUIDES, Guides, check_options, labelled, require_samples
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.sampling.watching import Watch, shown
from ddpm_jax.typing import Conditioning, Denoiser, Examples, Operator, RecallingDenoiser

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
        operators: Sequence[Operator | SamplerOperator] = (),
        guides: Guides = NO_GUIDES,
    ):
        """`times` are the chain's, and may go up and down; None for the grid of the options.

        `operators` transform the denoiser after clipping, or the sampler. Their data are ignored:
        each call brings its own. `guides` are the experiments that guide it, and fit it.

        Raises UserError for steps or guidance that this network can't give, ValueError for times
        that `plan_chain` refuses.
        """
        require_compiling()
        T = experiment.schedule.T
        options = options.settled(T, None if times is None else len(times) - 1)
        self.experiment, self.mesh, self.options = experiment, mesh, options
        self.operators = tuple(each._replace(data=None) for each in operators)
        self.guides = guides
        if options.steps is not None and options.steps > T:
            raise UserError(f"sample.steps is {options.steps}; it must be at most T, which is {T}")
        check_options(experiment, options, guides)
        check_variance(options.sampler, experiment.config.diffusion)
        chosen = options.sampler
        self._chosen = make_sampler(chosen.name, experiment.schedule, **chosen.options)
        self.sampler: Sampler = self._with_operators(self.operators)
        if times is None:
            fractional = guides.fractional_times(experiment)
            with naming("sample.grid", options.grid):
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
        if not self.cautions and 0 < times[0] < T:
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
        """The number of times that a chain calls a network, each of a pair by itself.

        With an interval of guidance, this takes each interval of times to have the same calls.
        """
        calls = chain_calls(self.sampler, self.times)
        if not is_guided(self.options):
            return calls
        weight = weight_of(self.experiment, self.options, 1.0)
        acts = np.broadcast_to(weight(jnp.asarray(self.times[:-1])), self.times[:-1].shape)
        return calls + round(calls * float(acts.mean()))

    @property
    def description(self) -> str:
        """The sampler with its options, the grid and the number of calls, in one line."""
        sampler, grid = self.options.sampler, self.options.grid
        chosen = ", ".join(f"{name} {value}" for name, value in sampler.options.items())
        steps, T = len(self.times) - 1, self.experiment.schedule.T
        return (
            f"sampler {sampler.name}{f' ({chosen})' if chosen else ''}, {steps} of {T} steps on "
            f"the grid {grid.name}, {self.calls} network calls a sample"
        )

    @pinned()
    def lower(self, params: Any, num: int) -> Any:
        """Returns the first interval of chains of `num` samples, lowered; nothing is computed.

        `params` are shapes with shardings. The mesh may have devices that can only be compiled for.
        """
        rows = jax.tree.map(lambda leaf: leaf[:1], self.rows)
        key, spread = np.uint32(0), batch_sharding(self.mesh)
        indices = jax.ShapeDtypeStruct((num,), np.uint32, sharding=spread)

        def placed(leaf: Any, sharding: NamedSharding) -> Any:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        first = jax.eval_shape(self._first_carry, key, indices, None)
        carry = jax.tree.map(placed, first, self._carry_shardings())
        given = jax.tree.map(lambda leaf: placed(leaf, spread), self.experiment.given_shapes(num))
        return self._advance.lower(params, carry, rows, key, indices, given, ())

    def _plan(self, times: np.ndarray) -> Row:
        return plan_chain(self.sampler, self.experiment.schedule, times)

    def _first_carry(self, seed: jax.Array, indices: jax.Array, x: Examples | None) -> Any:
        if x is None:
            shape = self.experiment.config.data.example_shape
            x = sample_noise(sample_keys(seed, indices), shape)
        return begin(self.sampler, self._denoiser(None, NO_CONDITIONING), x)

    def _denoiser(
        self,
        params: Any,
        conditioning: Conditioning,
        guide_params: Guides = NO_GUIDES,
        operators: Sequence[Operator] = (),
    ) -> Denoiser | RecallingDenoiser:
        return make_denoiser(
            self.experiment,
            params,
            conditioning,
            self.options,
            guides=self.guides,
            guide_params=guide_params,
            operators=operators,
        )

    def _some_steps(
        self,
        params: Any,
        carry: Any,
        rows: Row,
        seed: jax.Array,
        indices: jax.Array,
        conditioning: Conditioning,
        operands: Sequence[Any],
        guide_params: Guides = NO_GUIDES,
    ) -> Any:
        pairs = zip(self.operators, operands, strict=True)
        operators = [each._replace(data=data) for each, data in pairs]
        params, guide_params = gather_over(self.mesh, (params, guide_params))
        transforms = [each for each in operators if isinstance(each, Operator)]
        denoiser = self._denoiser(params, conditioning, guide_params, transforms)
        sampler = self._with_operators(operators)
        return advance(sampler, denoiser, carry, rows, sample_keys(seed, indices))

    def _with_operators(self, operators: Sequence[Operator | SamplerOperator]) -> Sampler:
        sampler = self._chosen
        for each in operators:
            if isinstance(each, SamplerOperator):
                sampler = each.apply(sampler, self.experiment.schedule, each.data)
        return sampler

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
        guide_params: Guides = NO_GUIDES,
        progress: Progress = lambda done, total: None,
        watch: Watch | None = None,
    ) -> Samples:
        """Draws samples first … first+num-1 of a seed.

        Every process of the mesh must call it, and gets all samples. They take the `labels` in
        turn, one or several, -1 for no class; None takes all classes. `conditioning` has what else
        the network takes, an array `[num, …]` for each part. `operands` has the data of each
        operator, a tree of arrays `[num, …]`. A chain with a `start` takes the times of the grid
        below it. The first `num_trajectories` samples (within one batch) leave their trajectory, at
        about 50 times. `progress` gets the intervals done and their total, `watch` each batch after
        each interval, padded as it is computed. Raises UserError, before anything is drawn, for
        numbers and labels out of range, and for arrays that are not `num` long or that the network
        does not take or lacks; OutOfMemory for more samples than memory holds.
        """
        self._check_numbers(seed, first, num)
        self.require_memory(num, num_trajectories)
        drawn_labels = self._check_labels(first, num, labels)
        given = self._check_given(num, conditioning, operands, drawn_labels)
        times, rows = self._from(start, num)
        size, steps = self._batch_size(num, num_trajectories), len(times) - 1
        batches, shape = math.ceil(num / size), self.experiment.config.data.example_shape
        samples, frames, chunk = np.empty((num, *shape), np.float32), [], _chunk(steps)
        for batch in range(batches):
            indices = np.arange(batch * size, (batch + 1) * size)
            places = np.minimum(indices, num - 1)  # One compiled shape serves the last batch too.
            chain = self._run(
                params,
                rows,
                chunk=chunk if watch is None else 1,
                key=np.uint32(seed),
                indices=shard_rows((first + indices).astype(np.uint32), self.mesh),
                x=None if start is None else self._shard(start.x.astype(np.float32), places),
                given=(*self._shard(given, places), guide_params),
            )
            if watch is not None:
                chain = shown(watch, chain, times, batch=(batch, batches))
            for done, carry in chain:
                if batch == 0 and num_trajectories and (done % chunk == 0 or done == steps):
                    frames.append(fetch(carry.x)[:num_trajectories])
                if done == steps:
                    samples[indices[indices < num]] = fetch(carry.x)[: num - batch * size]
                if done:
                    progress(batch * steps + done, batches * steps)
        kept = times[[*range(0, steps, chunk), steps]] if frames else None
        stack = np.stack(frames)[:, :num] if frames else None
        return self._described(samples, drawn_labels, stack, kept)

    def _described(
        self,
        samples: np.ndarray,
        labels: np.ndarray | None,
        frames: np.ndarray | None,
        times: np.ndarray | None,
    ) -> Samples:
        """Returns samples and frames with the names of their classes, and what they show."""
        names = () if labels is None else labelled(self.experiment, self.guides).class_names
        channels = shown_channels(self.experiment.config.data)
        return Samples(samples, labels, frames, times, names, channels)

    def _check_numbers(self, seed: int, first: int, num: int) -> None:
        require_samples("this run", self.experiment)
        check_seed(seed)
        check_range(first, num)

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
        chunk: int,
        key: np.uint32,
        indices: jax.Array,
        x: jax.Array | None,
        given: tuple[Conditioning, Sequence[Any], Guides],
    ) -> Iterator[tuple[int, Any]]:
        """Yields the intervals done and the carry, before the first and after each chunk."""
        steps, fix = len(rows.t), "lower sample.batch_size"
        with memory_errors(fix):
            carry = jax.block_until_ready(self._start(key, indices, x))
        yield 0, carry
        for first in range(0, steps, chunk):
            end = min(first + chunk, steps)
            piece = jax.tree.map(lambda leaf, a=first, b=end: leaf[a:b], rows)
            with memory_errors(fix):
                carry = self._advance(params, carry, piece, key, indices, *given)
                jax.block_until_ready(carry)
            yield end, carry

    def _from(self, start: Start | None, num: int) -> tuple[np.ndarray, Row]:
        """Returns the times and the rows of a chain that starts there."""
        if start is None:
            return self.times, self.rows
        require_floats("start.x", start.x)
        shape = (num, *self.experiment.config.data.example_shape)
        if start.x.shape != shape:
            raise UserError(f"start.x has the shape {start.x.shape}; it must be {shape}")
        if start.t == self.times[0]:
            return self.times, self.rows
        T, kept = self.experiment.schedule.T, self.times.dtype.type(start.t) == start.t
        if not (kept and 1 <= start.t <= T) or (np.diff(self.times) > 0).any():
            raise UserError(
                f"start.t is {start.t}; it must be in 1 … {T}, whole where the chain's times are, "
                "or the first time of a chain that goes up and down"
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
        rows = jax.tree.map(lambda x: rows_for("an operator's data", x, num), tuple(operands))
        if labels is not None:
            labels = np.where(labels == -1, np.int32(self.experiment.num_classes), labels)
        return self._check_conditioning(num, conditioning)._replace(labels=labels), rows

    def _check_conditioning(self, num: int, given: Conditioning) -> Conditioning:
        """Returns the parts besides labels as float32 and int32 arrays, one row a sample."""
        if given.labels is not None:
            raise UserError("conditioning.labels: give the classes of the samples as labels")
        if not self.experiment.conditioner.recalls:
            require_taken(self.experiment.model, given)
        elif given != NO_CONDITIONING:
            raise UserError("conditioning: leave it out: this network sees its own last x̂_0")

        def part(name: str, dtype: Any) -> Any:
            found = getattr(given, name)
            return None if found is None else rows_for(f"conditioning.{name}", found, num, dtype)

        T = self.experiment.schedule.T
        if given.image is not None:
            require_floats("conditioning.image", given.image)
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
        classes = labelled(self.experiment, self.guides).num_classes
        if classes == 0:
            if labels is not None:
                raise UserError(
                    "labels: this network was trained without labels; leave them out, or give a "
                    "classifier that leads to them"
                )
            return None
        if labels is None:
            return (np.arange(first, first + num) % classes).astype(np.int32)
        given = np.ravel(labels)
        check_label_count(len(given), num)
        for label in given.tolist():
            if label == -1:
                if self.guides.classifier is not None:
                    raise UserError('labels: a classifier leads to a class; "no class" is none')
                if self.experiment.config.train.label_dropout == 0:
                    raise UserError(
                        'labels: "no class" needs a network trained with some labels dropped '
                        "(train.label_dropout above 0), and this one was not"
                    )
                continue
            if type(label) is not int or not 0 <= label < classes:
                known = f"they are the whole numbers 0 … {classes - 1}"
                raise UserError(f"labels: there is no class {label}; {known}")
        return np.resize(given.astype(np.int32), num)


def _chunk(steps: int) -> int:
    """Returns the intervals of one call: a divisor of the chain if one is near, to compile once."""
    wanted = max(1, round(steps / _CHUNKS))
    near = [size for size in range(wanted, min(3 * wanted, steps) + 1) if steps % size == 0]
    return near[0] if near else wanted
