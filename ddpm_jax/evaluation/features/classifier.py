"""The features of a small classifier, trained on the real examples' own labels and kept on disk.

Its training is a pure function of the examples: equal data give equal features on one machine.
"""

import functools
import hashlib
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from ddpm_jax.data import describe_source
from ddpm_jax.data.pixels import to_unit
from ddpm_jax.data.source import Source
from ddpm_jax.evaluation.caching import read_state, write_state
from ddpm_jax.evaluation.facts import Facts
from ddpm_jax.evaluation.features.extractor import (
    Extractor,
    FeatureContext,
    FeatureExtractor,
    Features,
)
from ddpm_jax.evaluation.features.pixels import same_shape
from ddpm_jax.models.layers import Conv, Dense, GroupNorm
from ddpm_jax.ops import Operations, from_environment
from ddpm_jax.runtime.compilation import compiler_options
from ddpm_jax.runtime.random import stream_key
from ddpm_jax.typing import Batch

# Examples of each class that are enough, on average, to learn it and to hold some out.
_ENOUGH = 20
# Bytes of pixels that are held while training; of larger sets an even part is used.
_MOST_BYTES = 2**28
_BATCH = 256


class Settings(NamedTuple):
    """How the classifier is made; `described` names each of them."""

    channels: tuple[int, ...] = (32, 64, 64, 64, 64)
    """Of the convolutions; each but the first halves the sides, and small pictures need fewer."""
    least_steps: int = 300
    most_steps: int = 1_000
    passes: int = 24
    """Passes over the examples, unless there are too few or too many steps."""
    batch_size: int = 128
    learning_rate: float = 3e-3
    shift: int = 1
    """Pixels by which a picture is shifted at most, along each axis."""
    held_out: float = 0.1
    examples: int = 50_000


SETTINGS = Settings()


class Network(nn.Module):
    """A convolutional network: x `[B, H, W, C]` to features `[B, D]` and logits `[B, K]`."""

    channels: tuple[int, ...]
    classes: int
    ops: Operations = Operations()

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = x
        for level, channels in enumerate(self.channels):
            stride = 1 if level == 0 else 2
            h = Conv(channels, stride=stride, ops=self.ops, name=f"conv_{level}")(h)
            h = GroupNorm(8, activation="swish", ops=self.ops, name=f"norm_{level}")(h)
        features = jnp.mean(h, axis=(1, 2))
        return features, Dense(self.classes, ops=self.ops, name="logits")(features)


class Trained(NamedTuple):
    """A trained classifier: all parameters `[P]`, and its accuracy on what was held out."""

    parameters: np.ndarray
    accuracy: np.ndarray


def classifier() -> FeatureExtractor:
    """The last features of a small classifier that is trained on the real examples' labels."""
    return FeatureExtractor(_obstacle, _load)


def _obstacle(facts: Facts) -> str | None:
    if len(facts.shape) != 3:
        return "it needs pictures"
    if facts.real_classes < 2:
        return "it needs real examples with labels of at least two classes"
    num = facts.num_real if facts.num_training is None else facts.num_training
    if num < _ENOUGH * facts.real_classes:
        return f"it needs {_ENOUGH} real examples a class to train on"
    return same_shape(facts)


def _load(context: FeatureContext) -> Extractor:
    """Returns the extractor of the real examples' classifier, trained unless it was kept."""
    source = context.source
    assert source is not None, "an obstacle of data without labels"
    about = {"shape": list(source.shape), **describe_source(source)}
    key = {"classifier": about, "settings": SETTINGS._asdict(), "jax": jax.__version__}
    model = _model(source)
    found = read_state(key, Trained(np.zeros(0), np.zeros(())))
    if found is None or not _is_whole(found, model.size):
        context.report("training a classifier of the real examples; it is kept for the next time")
        began = time.monotonic()
        found = _train(source, model)
        write_state(key, found)
        context.report(
            f"trained it in {time.monotonic() - began:.0f} s; it finds the class of "
            f"{found.accuracy:.1%} of the held-out examples"
        )
    described = {
        "digest": hashlib.sha256(found.parameters.tobytes()).hexdigest()[:16],
        "held_out_accuracy": float(found.accuracy),
        "settings": SETTINGS._asdict(),
    }
    return Extractor(functools.partial(model.extract, found.parameters), described)


class _Model(NamedTuple):
    """A network of parameters `[P]`: their first values, their number, and features with logits.

    `compiled` is `apply` as one program, of parameters and a full batch.
    """

    init: Callable[[], jax.Array]
    size: int
    apply: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    compiled: Callable[[Any, Any], tuple[jax.Array, jax.Array]]

    def extract(self, parameters: Any, examples: np.ndarray) -> Features:
        """Returns features of examples; one compiled program serves batches of any size."""
        parts = []
        for start in range(0, len(examples), _BATCH):
            part = examples[start : start + _BATCH]
            full = np.pad(part, [(0, _BATCH - len(part)), *[(0, 0)] * (part.ndim - 1)])
            parts.append(
                [np.asarray(each)[: len(part)] for each in self.compiled(parameters, full)]
            )
        vectors, logits = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Features(vectors, logits)


def _model(source: Source) -> _Model:
    # The shorter side of the picture shrinks to two pixels.
    levels = max(2, math.ceil(math.log2(max(2, min(source.shape[:2])))))
    channels = SETTINGS.channels[:levels]
    network = Network(channels, len(source.class_names), from_environment())
    key, one = stream_key(0, "init"), jnp.zeros((1, *source.shape))
    shapes = jax.eval_shape(network.init, key, one)
    flat, back = ravel_pytree(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
    device = jax.local_devices()[0]
    init = jax.jit(network.init, compiler_options=compiler_options(device, once=True))

    def apply(parameters: Any, x: Any) -> tuple[jax.Array, jax.Array]:
        return network.apply(back(parameters), x)  # type: ignore

    compiled = jax.jit(apply, compiler_options=compiler_options(device))
    return _Model(lambda: ravel_pytree(init(key, one))[0], flat.size, apply, compiled)


def _is_whole(found: Trained, size: int) -> bool:
    """Whether what was kept are parameters of this network, and finite."""
    arrays = (found.parameters, found.accuracy)
    shapes = [None if each is None else each.shape for each in arrays]
    return shapes == [(size,), ()] and all(
        each.dtype == np.float32 and bool(np.isfinite(each).all()) for each in arrays
    )


def _train(source: Source, model: _Model) -> Trained:
    """Trains on all examples but a part, and returns the parameters and the accuracy on that."""
    most = min(SETTINGS.examples, max(2, _MOST_BYTES // math.prod(source.shape)))
    size = min(len(source), most)
    chosen = np.random.default_rng(0).permutation(np.arange(size) * len(source) // size)
    split = max(1, round(SETTINGS.held_out * size))
    held_out, seen = (source.gather(np.sort(part)) for part in np.split(chosen, [split]))
    parameters = np.asarray(_fit(seen, model))
    logits = model.extract(parameters, np.asarray(to_unit(jnp.asarray(held_out.examples)))).logits
    assert logits is not None, "a classifier has logits"
    right = np.mean(logits.argmax(axis=1) == held_out.labels)
    return Trained(parameters, np.asarray(right, np.float32))


def _fit(batch: Batch, model: _Model) -> jax.Array:
    """Returns the parameters after all steps, which are one compiled loop."""
    examples, labels = jnp.asarray(batch.examples), jnp.asarray(batch.labels)
    passes = SETTINGS.passes * len(labels) // SETTINGS.batch_size
    steps = int(np.clip(passes, SETTINGS.least_steps, SETTINGS.most_steps))
    optimizer = optax.adam(optax.cosine_onecycle_schedule(steps, SETTINGS.learning_rate))

    def loss(parameters: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = model.apply(parameters, x)[1]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    def train(parameters: jax.Array, examples: jax.Array, labels: jax.Array) -> jax.Array:
        def step(state: Any, number: jax.Array) -> tuple[Any, None]:
            parameters, of_optimizer = state
            key, of_shift = jax.random.split(stream_key(0, "sample", number))
            rows = jax.random.randint(key, (SETTINGS.batch_size,), 0, len(labels))
            x = _shifted(of_shift, to_unit(examples[rows]))
            gradient = jax.grad(loss)(parameters, x, labels[rows])
            update, of_optimizer = optimizer.update(gradient, of_optimizer)
            return (optax.apply_updates(parameters, update), of_optimizer), None

        start = (parameters, optimizer.init(parameters))
        return jax.lax.scan(step, start, jnp.arange(steps))[0][0]

    options = compiler_options(jax.local_devices()[0])
    return jax.jit(train, compiler_options=options)(model.init(), examples, labels)


def _shifted(key: jax.Array, x: jax.Array) -> jax.Array:
    """Returns pictures `[B, H, W, C]`, each shifted at random; edges are repeated."""
    most = SETTINGS.shift
    wide = jnp.pad(x, [(0, 0), (most, most), (most, most), (0, 0)], mode="edge")
    starts = jax.random.randint(key, (len(x), 2), 0, 2 * most + 1)

    def window(picture: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(picture, (start[0], start[1], 0), x.shape[1:])

    return jax.vmap(window)(wide, starts)
