"""From a source that decodes to one that is ready: checked through, in memory if it fits."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import numpy as np

from ddpm_jax.data.cache import keep, recall
from ddpm_jax.data.source import ArraySource, Source, StreamSource, Unreadable
from ddpm_jax.errors import UserError

_log = logging.getLogger(__name__)
T = TypeVar("T")

IN_MEMORY_BYTES = 2 * 2**30
"""Decoded sets up to this size are held as one array; larger ones are decoded on demand."""

WORTH_KEEPING_SECONDS = 1.0
"""What takes less than this is not kept on disk: it is as quickly decoded again."""

_PART = 32


class _Pass(NamedTuple):
    """What one pass over a source gave; arrays only if it was to decode."""

    broken: dict[int, Unreadable]
    examples: np.ndarray | None
    labels: np.ndarray | None


def load(source: StreamSource, *, limit: int | None = None) -> Source:
    """Returns the source less what can't be read, decoded into one array if it fits the limit.

    The limit is IN_MEMORY_BYTES unless given. Both forms give the same batches. What the pass over
    the source found is kept on disk for the next time. Raises UserError if nothing can be read, or
    anything can't where the source is strict.
    """
    limit = IN_MEMORY_BYTES if limit is None else limit
    decode = len(source) * math.prod(source.shape) <= limit
    if not decode and source.tolerance is None:
        return source
    found = _recalled(source, decode) or _measured(source, decode)
    if found.broken:
        _refuse_or_warn(source, found.broken)
    if found.examples is None:
        return source.without(list(found.broken)) if found.broken else source
    examples, labels = found.examples, found.labels
    if found.broken:
        good = np.delete(np.arange(len(source)), list(found.broken))
        examples, labels = examples[good], None if labels is None else labels[good]
    return ArraySource(examples, labels, source.class_names)


def _refuse_or_warn(source: StreamSource, broken: dict[int, Unreadable]) -> None:
    assert source.tolerance is not None, "only a source with a tolerance has broken examples"
    what, _, strict = source.tolerance
    first = next(iter(broken.values()))
    counted = f"{len(broken)} of {len(source)} {what} can't be read"
    if len(broken) == len(source):
        raise UserError(f"data.path: {counted}; the first is {first}; give others")
    if strict:
        mend = "mend or remove it, or leave out --data.strict"
        raise UserError(f"data.path: {counted}; the first is {first}; {mend}")
    named = ", ".join(error.name for error in list(broken.values())[:5])
    more = ", …" if len(broken) > 5 else ""
    _log.warning("%s and are left out (%s%s): %s", counted, named, more, first.reason)


# --- the pass over the source ---------------------------------------------------------------------


def _measured(source: StreamSource, decode: bool) -> _Pass:
    begun = time.monotonic()
    found = _decode_all(source) if decode else _look_at_all(source)
    if time.monotonic() - begun >= WORTH_KEEPING_SECONDS:
        _keep(source, decode, found)
    return found


def _decode_all(source: StreamSource) -> _Pass:
    examples = np.empty((len(source), *source.shape), np.uint8)
    labels = np.empty(len(source), np.int32) if source.class_names else None
    broken: dict[int, Unreadable] = {}

    def put(indices: np.ndarray) -> None:
        for index, (image, label) in zip(indices, source.read(indices), strict=True):
            examples[index] = image
            if labels is not None:
                labels[index] = label

    def fill(indices: np.ndarray) -> int:
        try:
            put(indices)
        except Unreadable:
            for index in indices:
                try:
                    put(np.array([index]))
                except Unreadable as error:
                    broken[int(index)] = error
        return len(indices)

    parts = [np.arange(at, min(at + _PART, len(source))) for at in range(0, len(source), _PART)]
    _with_bar("decoding", len(source), source.pool.map(fill, parts))
    return _Pass(dict(sorted(broken.items())), examples, labels)


def _look_at_all(source: StreamSource) -> _Pass:
    """Finds a torn file at once instead of days later; nothing is held."""
    assert source.tolerance is not None
    look: Callable[[int], object] = source.tolerance.look
    broken: dict[int, Unreadable] = {}

    def check(part: range) -> int:
        for index in part:
            try:
                look(index)
            except Unreadable as error:
                broken[index] = error
        return len(part)

    parts = [range(at, min(at + _PART, len(source))) for at in range(0, len(source), _PART)]
    _with_bar("checking", len(source), source.pool.map(check, parts))
    return _Pass(dict(sorted(broken.items())), None, None)


def _with_bar(title: str, total: int, counts: Iterable[int]) -> None:
    from tqdm import tqdm

    # `disable=None` shows the bar on a terminal only.
    with tqdm(total=total, desc=title, unit=" images", disable=None) as bar:
        for count in counts:
            bar.update(count)


# --- on disk --------------------------------------------------------------------------------------


def _keep(source: StreamSource, decode: bool, found: _Pass) -> None:
    if source.origin is None:
        return
    rows = [(index, error.name, error.reason) for index, error in found.broken.items()]
    arrays = {"broken": np.array(json.dumps(rows))}
    if found.examples is not None:
        arrays["examples"] = found.examples
    if found.labels is not None:
        arrays["labels"] = found.labels
    keep(_origin(source, decode), arrays)


def _recalled(source: StreamSource, decode: bool) -> _Pass | None:
    kept = None if source.origin is None else recall(_origin(source, decode))
    if kept is None:
        return None
    rows = json.loads(str(kept["broken"]))
    broken = {index: Unreadable(name, reason) for index, name, reason in rows}
    return _Pass(broken, kept.get("examples"), kept.get("labels"))


def _origin(source: StreamSource, decode: bool):
    assert source.origin is not None
    form = f"decoded to {source.shape}" if decode else "checked"
    return source.origin._replace(source=f"{source.origin.source} {form}")
